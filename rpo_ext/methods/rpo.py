"""Reward Partitioning Optimization: regress the policy's log-ratio onto one number per response."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rpo_ext.functional import reward_partitioning as partitioning
from rpo_ext.functional.checks import finite_rewards
from rpo_ext.functional.responses import reduce_logprobs
from rpo_ext.settings import RPOSettings
from rto.methods.base import PlainMethod
from rto.methods.expect import expect
from rto.protocols import RewardScaling
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class RPOBatch(TrainBatch):
    """The log-ratio to reach and the reference's log-prob of each response, both [B]."""

    targets: Tensor
    ref_logprobs: Tensor


@dataclass(frozen=True, kw_only=True)
class RPO(RPOSettings, PlainMethod):
    """1/2 (log pi/pi_ref - (r / tau - log Z))^2 (arXiv 2506.13702), Z estimated per prompt.

    The released code is ``estimator="batch_mean", reduction="mean", tau=5``, and what it says it
    does is ``estimator="ref"`` in its place.
    """

    @property
    def roles(self) -> frozenset[Role]:
        sampler = {Role.SAMPLER} if self.estimator == "importance" else set()
        return frozenset({Role.REWARD, Role.REFERENCE}) | sampler

    @property
    def reward_scaling(self) -> RewardScaling:
        return "zscore"

    @property
    def min_responses(self) -> int:
        return 2

    def targets(self, batch: ScoredBatch) -> tuple[RPOBatch, dict[str, float]]:
        mask = batch.tokens.response_mask
        scaled = finite_rewards(batch[Role.REWARD]).double() / self.tau
        ref = reduce_logprobs(batch[Role.REFERENCE], mask, reduction=self.reduction)
        log_partition = self._log_partition(batch, scaled=scaled, ref_logprobs=ref.double())
        targets = scaled - log_partition
        metrics = {
            "rpo/log_partition": log_partition.mean(),
            "rpo/target_mean": targets.mean(),
            "rpo/target_std": targets.std(correction=0),
        }
        train_batch = RPOBatch(tokens=batch.tokens, targets=targets.to(ref), ref_logprobs=ref)
        return train_batch, {name: float(value) for name, value in metrics.items()}

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, RPOBatch)
        mask = batch.tokens.response_mask
        logprobs = reduce_logprobs(output.logprobs, mask, reduction=self.reduction)
        log_ratio = logprobs - batch.ref_logprobs
        return partitioning.partition_loss(log_ratio=log_ratio, targets=batch.targets, norm=norm)

    def _log_partition(self, batch: ScoredBatch, *, scaled: Tensor, ref_logprobs: Tensor) -> Tensor:
        group = batch.tokens.group
        match self.estimator:
            case "uniform":
                return partitioning.uniform_log_partition(scaled, group)
            case "loo":
                return partitioning.loo_log_partition(scaled, group)
            case "ref":
                return partitioning.ref_log_partition(
                    scaled=scaled, ref_logprobs=ref_logprobs, group=group
                )
            case "batch_mean":
                return partitioning.batch_mean_log_partition(
                    scaled=scaled, ref_logprobs=ref_logprobs, group=group
                )
            case "importance":
                return partitioning.importance_log_partition(
                    scaled=scaled,
                    ref_logprobs=ref_logprobs,
                    sampler_logprobs=reduce_logprobs(
                        batch[Role.SAMPLER].double(),
                        batch.tokens.response_mask,
                        reduction=self.reduction,
                    ),
                    group=group,
                )
