"""Kahneman-Tversky Optimization: desirable and undesirable responses against a reference point."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rpo_ext.functional.checks import finite_rewards
from rpo_ext.functional.kahneman_tversky import (
    above_prompt_mean,
    kto_loss,
    matched_reference_point,
    mismatched_reference_point,
)
from rpo_ext.functional.responses import Reduction, reduce_logprobs
from rpo_ext.settings import KTOSettings
from rto.methods.base import PlainMethod
from rto.methods.expect import expect
from rto.protocols import RewardScaling
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch

MATCHED_SATURATION = 20.0


@dataclass(frozen=True)
class KTOBatch(TrainBatch):
    """Reference log-prob, reference point z0 and desirability (bool) of each response, all [B]."""

    ref_logprobs: Tensor
    reference_point: Tensor
    desirable: Tensor


@dataclass(frozen=True, kw_only=True)
class KTO(KTOSettings, PlainMethod):
    """w (1 - sigmoid(+-beta (log pi/pi_ref - z0))) (arXiv 2402.01306), with z0 by ``variant``:

    "mismatched" is TRL's: summed log-probs, z0 the mean log-ratio of prompts with unrelated
    responses, at least 0. "matched_mean" is the RPO authors': log-probs averaged over tokens, z0
    the mean log-ratio of the responses themselves, saturation at 20.
    """

    @property
    def inverse_temperature(self) -> float:
        return self.beta or (1.0 if self.variant == "matched_mean" else 0.1)

    @property
    def roles(self) -> frozenset[Role]:
        point = Role.UNRELATED if self.variant == "mismatched" else Role.POLICY
        return frozenset({Role.REWARD, Role.REFERENCE, point})

    @property
    def reduction(self) -> Reduction:
        return "sum" if self.variant == "mismatched" else "mean"

    @property
    def reward_scaling(self) -> RewardScaling:
        return "none" if self.threshold == "label" else "zscore"

    @property
    def min_responses(self) -> int:
        return 2 if self.threshold == "prompt_mean" else 1

    def targets(self, batch: ScoredBatch) -> tuple[KTOBatch, dict[str, float]]:
        ref = self._reduce(batch[Role.REFERENCE], batch)
        if self.variant == "mismatched":
            point = mismatched_reference_point(batch[Role.UNRELATED].to(ref))
        else:
            point = matched_reference_point(self._reduce(batch[Role.POLICY], batch) - ref)
        desirable = self._desirable(finite_rewards(batch[Role.REWARD]), batch.tokens.group)
        train_batch = KTOBatch(
            tokens=batch.tokens, ref_logprobs=ref, reference_point=point, desirable=desirable
        )
        metrics = {
            "kto/reference_point": float(point.mean()),
            "kto/desirable_share": float(desirable.float().mean()),
        }
        return train_batch, metrics

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, KTOBatch)
        log_ratio = self._reduce(output.logprobs, batch) - batch.ref_logprobs
        return kto_loss(
            log_ratio=log_ratio,
            reference_point=batch.reference_point,
            desirable=batch.desirable,
            norm=norm,
            beta=self.inverse_temperature,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            saturation=None if self.variant == "mismatched" else MATCHED_SATURATION,
        )

    def _desirable(self, rewards: Tensor, group: Tensor) -> Tensor:
        match self.threshold:
            case "global_mean":
                return rewards >= 0
            case "batch_mean":
                # In fp64, where the mean of equal fp32 rewards is exactly their value.
                return rewards.double() >= rewards.double().mean()
            case "prompt_mean":
                return above_prompt_mean(rewards, group)
            case "label":
                if not bool(((rewards == 0) | (rewards == 1)).all()):
                    raise ValueError("threshold is 'label': rewards must be 1 or 0")
                return rewards >= 0.5

    def _reduce(self, logprobs: Tensor, batch: ScoredBatch | TrainBatch) -> Tensor:
        return reduce_logprobs(logprobs, batch.tokens.response_mask, reduction=self.reduction)
