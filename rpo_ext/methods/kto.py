"""Kahneman-Tversky Optimization: desirable and undesirable responses against a reference point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rpo_ext.functional.checks import finite_rewards, require_not_negative, require_positive
from rpo_ext.functional.kahneman_tversky import (
    above_prompt_mean,
    kto_loss,
    matched_reference_point,
    mismatched_reference_point,
)
from rpo_ext.functional.responses import Reduction, reduce_logprobs
from rto.methods.base import PlainMethod
from rto.methods.narrow import expect
from rto.protocols import Card, RewardScaling
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch

Variant = Literal["mismatched", "matched_mean"]
Threshold = Literal["global_mean", "batch_mean", "prompt_mean", "label"]

MATCHED_SATURATION = 20.0


@dataclass(frozen=True)
class KTOBatch(TrainBatch):
    """Reference log-prob, reference point z0 and desirability (bool) of each response, all [B]."""

    ref_logprobs: Tensor
    reference_point: Tensor
    desirable: Tensor


@dataclass(frozen=True, kw_only=True)
class KTO(PlainMethod):
    """w (1 - sigmoid(+-beta (log pi/pi_ref - z0))) (arXiv 2402.01306)."""

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    """The paper keeps desirable_weight * desirables over undesirable_weight * undesirables in
    [1, 4/3]."""
    variant: Variant = "mismatched"
    """"mismatched" is TRL's: summed log-probs, z0 the mean log-ratio of prompts with unrelated
    responses, at least 0. "matched_mean" is the RPO authors': log-probs averaged over tokens, z0
    the mean log-ratio of the responses themselves, saturation at 20; they set beta to 1."""
    threshold: Threshold = "global_mean"
    """A response is desirable whose reward reaches: the training set's mean, the batch's, its
    prompt's, or, with "label", 1 where the user's own column says 1 or 0."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_not_negative(
            desirable_weight=self.desirable_weight, undesirable_weight=self.undesirable_weight
        )
        if self.variant not in ("mismatched", "matched_mean"):
            raise ValueError(f"variant is {self.variant!r}: expected mismatched or matched_mean")

    @property
    def card(self) -> Card:
        return Card(
            name="kto",
            title="Kahneman-Tversky Optimization",
            paper="arXiv 2402.01306",
            feedback="rewards",
            modes=("offline", "online"),
        )

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
            beta=self.beta,
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
            case _:
                raise ValueError(
                    f"threshold is {self.threshold!r}: "
                    "expected global_mean, batch_mean, prompt_mean or label"
                )

    def _reduce(self, logprobs: Tensor, batch: ScoredBatch | TrainBatch) -> Tensor:
        return reduce_logprobs(logprobs, batch.tokens.response_mask, reduction=self.reduction)
