"""GRPO in a few lines, for measuring: group baseline, clipped ratio, k3 KL in the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from rto.functional import losses
from rto.functional.kl import kl_penalty
from rto.functional.masked import masked_mean
from rto.methods.narrow import expect
from rto.protocols import Card, Output
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class GroupBatch(TrainBatch):
    """All [B, T]."""

    old_logprobs: Tensor
    ref_logprobs: Tensor
    advantages: Tensor


@dataclass(frozen=True)
class GroupMethod:
    """A critic-free method; ``group_size`` responses answer each prompt, next to each other."""

    group_size: int
    kl_coef: float
    card: Card = Card(
        "grpo_like", "Group-relative policy optimization", "for benchmarks", "rewards", ("online",)
    )
    outputs: frozenset[Output] = frozenset()
    whole_groups: bool = False
    roles: frozenset[Role] = frozenset({Role.POLICY, Role.REFERENCE, Role.REWARD})

    def targets(self, batch: ScoredBatch) -> tuple[GroupBatch, dict[str, float]]:
        tokens, groups = batch.tokens, batch[Role.REWARD].float().view(-1, self.group_size)
        centred = groups - groups.mean(1, keepdim=True)
        scaled = centred / (groups.std(1, keepdim=True) + 1e-4)
        ones = tokens.response_mask.float()
        targets = GroupBatch(
            tokens, batch[Role.POLICY], batch[Role.REFERENCE], scaled.view(-1, 1) * ones
        )
        metrics = {
            "reward/mean": float(groups.mean()),
            "response/length": float(ones.sum(1).mean()),
            "kl/mean": float(
                masked_mean(targets.old_logprobs - targets.ref_logprobs, tokens.response_mask)
            ),
        }
        return targets, metrics

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        return self

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, GroupBatch)
        mask = batch.tokens.response_mask
        policy = losses.policy_loss(
            logprobs=output.logprobs,
            old_logprobs=batch.old_logprobs,
            advantages=batch.advantages,
            mask=mask,
            norm=norm,
            clip_low_high=(0.2, 0.2),
        )
        kl = kl_penalty(
            logprobs=output.logprobs,
            ref_logprobs=batch.ref_logprobs,
            mask=mask,
            estimator="k3",
        )
        kl = losses.aggregate(kl, mask=mask, norm=norm, reduction="token")
        return LossOutput(policy.loss + self.kl_coef * kl, policy.metrics)
