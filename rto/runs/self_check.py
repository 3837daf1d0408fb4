"""Before the first update: does the assembled pipeline agree with itself?

Each check names itself when it fails and stops the run. The checks cost one small rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rto.cluster.generator import EngineGenerator
from rto.cluster.scorer import ClusterScorer
from rto.errors import ProofError, RewardProtocolError
from rto.types import Prompt, Role, Rollout, TokenBatch, collate

CHECKS = {
    "check/engine_trainer_abs_diff": "engine and trainer agree",
    "check/importance_ratio": "importance ratio is 1",
    "check/reference_abs_diff": "policy equals the reference",
    "check/reward_padding_abs_diff": "rewards do not depend on padding",
}
"""Figure of a check -> what it shows."""


def self_check(
    *,
    prompts: Sequence[Prompt],
    generator: EngineGenerator,
    scorer: ClusterScorer,
    version: int,
    roles: frozenset[Role],
    tolerance: float,
    same_reference: bool,
    pad_token_id: int,
) -> dict[str, float]:
    """Sample a few responses and compare what should be equal; returns the figures seen.

    ``tolerance`` bounds mean |log-prob difference| per token. ``same_reference`` says that policy
    and reference start from the same weights.

    Raises:
        ProofError: names the check, the figure and the tolerance.
        RewardProtocolError: a reward is missing.
    """
    (rollouts,) = generator.generate([prompts], version, iteration=0)
    tokens = collate(rollouts, pad_token_id=pad_token_id)
    mask = tokens.response_mask
    scored = scorer.score(tokens, rollouts, roles)
    if len(scored) < len(tokens):
        raise RewardProtocolError("self-check failed: a reward server failed on a response")
    figures: dict[str, float] = {}
    if Role.POLICY in roles:
        policy = scored[Role.POLICY]
        engine = _gap(policy, tokens.sampler_logprobs, mask)
        figures["check/engine_trainer_abs_diff"] = _demand(
            "engine log-probs equal trainer log-probs", engine, tolerance
        )
        figures["check/importance_ratio"] = _ratio(scorer, tokens, rollouts, policy, tolerance)
        if same_reference and Role.REFERENCE in roles:
            kl = _gap(policy, scored[Role.REFERENCE], mask)
            figures["check/reference_abs_diff"] = _demand(
                "policy equals reference (KL 0)", kl, tolerance
            )
    if Role.REWARD in roles:
        figures["check/reward_padding_abs_diff"] = _reward_padding(
            scorer, tokens, rollouts, scored[Role.REWARD], tolerance
        )
    return figures


def _ratio(
    scorer: ClusterScorer,
    tokens: TokenBatch,
    rollouts: Sequence[Rollout],
    policy: Tensor,
    tolerance: float,
) -> float:
    """exp(new - old) with unchanged weights, the rows in another order and other shards."""
    order = list(reversed(range(len(tokens))))
    again = scorer.score(
        tokens.take(order), [rollouts[i] for i in order], frozenset({Role.POLICY})
    )[Role.POLICY][torch.tensor(order)]
    _demand("importance ratio is 1", _gap(policy, again, tokens.response_mask), tolerance)
    mask = tokens.response_mask
    return float((again - policy).exp()[mask].mean())


def _reward_padding(
    scorer: ClusterScorer,
    tokens: TokenBatch,
    rollouts: Sequence[Rollout],
    rewards: Tensor,
    tolerance: float,
) -> float:
    """Rewards of the same rows one by one, so that no row is padded to another's length."""
    alone = [
        scorer.score(tokens.take([i]).trim(), [rollout], frozenset({Role.REWARD}))[Role.REWARD]
        for i, rollout in enumerate(rollouts)
    ]
    scale = float(rewards.abs().mean().clamp_min(1.0))
    gap = float((torch.cat(alone) - rewards).abs().max()) / scale
    return _demand("reward does not depend on padding", gap, 10 * tolerance)


def _gap(left: Tensor, right: Tensor, mask: Tensor) -> float:
    return float((left - right).abs()[mask].mean())


def _demand(check: str, figure: float, tolerance: float) -> float:
    if not figure <= tolerance:
        raise ProofError(
            f"self-check failed: {check}: mean |difference| {figure:.3g}, tolerance "
            f"{tolerance:.3g} (train.self_check false skips it)"
        )
    return figure


def few(prompts: Sequence[Prompt], count: int = 4) -> list[Prompt]:
    """Prompts for the check; ids below zero keep its random seeds apart from the run's."""
    return [replace(prompt, id=-1 - i) for i, prompt in enumerate(prompts[:count])]
