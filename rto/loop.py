"""The iteration as the papers write it. Knows no library; timers and progress wrap its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from rto.finite import sampled, stored
from rto.observe import OBSERVED, dropped, observe, observe_stored
from rto.overlap import TRAINED, Draws
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
from rto.types import Role, Rollout, ScoredBatch, StepStats

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
    lag: int = 0,
    scoring_parts: int = 1,
    ahead: Sequence[Sequence[Rollout]] = (),
) -> AnyMethod:
    """Online: sample, score, target, update, sync. Returns the method as it ended.

    With ``lag`` N the responses of iteration i are of the policy version i - N (of the first one
    before there are so many): they are sampled and scored while the iterations before are trained
    on. A draw is scored in ``scoring_parts``, each once it is sampled. ``ahead`` are the responses
    that a resumed run had drawn so, for the iterations to come.
    """
    roles = method.roles | OBSERVED
    if learner.single_step:
        roles = method.roles | (OBSERVED - {Role.POLICY})
    with Draws(
        generator, scorer, roles=roles, pad_token_id=pad_token_id, parts=scoring_parts
    ) as draws:
        for rollouts in ahead:
            draws.restore(rollouts)
        version = sync.push()
        for iteration in iterations:
            last = min(iteration + lag, iterations[-1])
            for later in range(iteration + len(draws), last + 1):
                draws.start(later, prompts.draw(later), version)
            draw = draws.next()
            rollouts, tokens = draw.sampled()
            scored = scorer.score(tokens, rollouts, roles & TRAINED)
            rollouts, scored = draw.joined(scored)
            samples = sampled(iteration, rollouts)
            batch, metrics = method.targets(samples.finite(scored))
            stats = learner.update(method, samples.finite_targets(batch))
            for line in samples.skipped(stats):
                tracker.tell(line)
            scored = samples.finite(_after(stats, scored))
            metrics = {**observe(scored), **metrics, **stats.metrics, **dropped(tokens, scored)}
            metrics["sampler/lag"] = version - rollouts[0].policy_version
            drawn = draws.sampled()
            version = sync.push()
            method = method.adapt(metrics)
            tracker.rollouts(iteration, rollouts, scored)
            tracker.log(iteration, metrics)
            checkpointer.after(iteration, method, metrics, drawn)
            # Gigabytes that the next draw is collated and scored beside.
            del draw, rollouts, samples, tokens, scored, batch, stats
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
        samples = stored(step)
        batch, metrics = method.targets(samples.finite(scored))
        stats = learner.update(method, samples.finite_targets(batch))
        for line in samples.skipped(stats):
            tracker.tell(line)
        scored = samples.finite(_after(stats, scored))
        metrics = {**observe_stored(scored), **metrics, **stats.metrics}
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
