"""The iteration as the papers write it. Knows no library; timers and progress wrap its parts."""

from __future__ import annotations

from typing import TypeVar

from rto.observe import OBSERVED, observe, observe_stored
from rto.protocols import (
    BatchSource,
    Checkpointer,
    Evaluator,
    Generator,
    Learner,
    Method,
    PromptSource,
    Scorer,
    Tracker,
    WeightSync,
)
from rto.types import Role, ScoredBatch, StepStats, collate

AnyMethod = TypeVar("AnyMethod", bound=Method)


def train(
    method: AnyMethod,
    *,
    prompts: PromptSource,
    generator: Generator,
    scorer: Scorer,
    learner: Learner,
    sync: WeightSync,
    tracker: Tracker,
    checkpointer: Checkpointer,
    iterations: range,
    pad_token_id: int,
) -> AnyMethod:
    """Online: sample, score, target, update, sync. Returns the method as it ended."""
    version = sync.push()
    roles = method.roles | OBSERVED
    if learner.single_step:
        roles = method.roles | (OBSERVED - {Role.POLICY})
    for iteration in iterations:
        rollouts = generator.generate(prompts.draw(iteration), version)
        tokens = collate(rollouts, pad_token_id=pad_token_id)
        scored = scorer.score(tokens, rollouts, roles)
        batch, metrics = method.targets(scored)
        stats = learner.update(method, batch)
        scored = _after(stats, scored)
        version = sync.push()
        metrics = {**observe(scored), **metrics, **stats.metrics}
        method = method.adapt(metrics)
        tracker.rollouts(iteration, rollouts, scored)
        tracker.log(iteration, metrics)
        checkpointer.after(iteration, method, metrics)
    return method


def fit(
    method: AnyMethod,
    *,
    batches: BatchSource,
    learner: Learner,
    evaluator: Evaluator,
    tracker: Tracker,
    checkpointer: Checkpointer,
) -> AnyMethod:
    """Offline: stored rows take the place of rollout and reward. Returns the method at the end."""
    for step, scored in batches:
        batch, metrics = method.targets(scored)
        stats = learner.update(method, batch)
        metrics = {**observe_stored(_after(stats, scored)), **metrics, **stats.metrics}
        method = method.adapt(metrics)
        metrics = {**metrics, **evaluator.after(step)}
        tracker.log(step, metrics)
        checkpointer.after(step, method, metrics)
        if checkpointer.stopped:
            break
    return method


def _after(stats: StepStats, scored: ScoredBatch) -> ScoredBatch:
    """The batch with the log-probs that a single step gave of the policy that sampled."""
    if stats.policy_logprobs is None:
        return scored
    return scored.with_scores({Role.POLICY: stats.policy_logprobs})
