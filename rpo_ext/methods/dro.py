"""Direct Reward Optimisation: squared residuals of the KL-regularised optimum's identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rpo_ext.functional import value_regression as regression
from rpo_ext.functional.checks import finite_rewards
from rpo_ext.functional.responses import Reduction, reduce_logprobs
from rpo_ext.settings import DROSettings
from rto.methods.base import PlainMethod
from rto.methods.expect import expect
from rto.protocols import Output, RewardScaling
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch

Variant = Literal["value", "shared_head", "policy", "prompt_variance"]

_ROLES: dict[Variant, frozenset[Role]] = {
    "value": frozenset({Role.POLICY, Role.CRITIC}),
    "shared_head": frozenset(),
    "policy": frozenset({Role.POLICY}),
    "prompt_variance": frozenset(),
}
"""What a variant reads beside rewards and the reference."""


@dataclass(frozen=True)
class DROBatch(TrainBatch):
    """Reward and reference log-prob of each response, both [B]."""

    rewards: Tensor
    ref_logprobs: Tensor


@dataclass(frozen=True)
class BaselineBatch(DROBatch):
    """``baseline`` [B]: the value of the prompt, or the batch mean, fixed over the update.

    ``regularised`` [B] is r - tau log pi/pi_ref of the policy at the start of the step.
    """

    baseline: Tensor
    regularised: Tensor


@dataclass(frozen=True, kw_only=True)
class DRO(DROSettings, PlainMethod):
    """1/2 (r - V - tau log pi/pi_ref)^2 (arXiv 2405.19107), with V by ``variant``:

    "value" (DRO-V): a network of its own, one value per prompt. The paper's best runs had several
    values per batch element, which its text and appendix define differently.
    "shared_head": a head on the policy, trained jointly and not detached, as the authors of RPO do
    with log-probs per token.
    "policy" (DRO-P): variance over the batch. Its mean is taken at the start of the step, which is
    exact for the first optimizer step on a batch.
    "prompt_variance": variance over the responses of each prompt.
    """

    @property
    def logprob_reduction(self) -> Reduction:
        """Log-prob of a response: in all, or per token."""
        return self.reduction or ("mean" if self.variant == "shared_head" else "sum")

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset({Role.REWARD, Role.REFERENCE}) | _ROLES[self.variant]

    @property
    def outputs(self) -> frozenset[Output]:
        return frozenset({"value"}) if self.variant == "shared_head" else frozenset()

    @property
    def whole_groups(self) -> bool:
        return self.variant == "prompt_variance"

    @property
    def reward_scaling(self) -> RewardScaling:
        return "zscore"

    @property
    def min_responses(self) -> int:
        return 2 if self.variant == "prompt_variance" else 1

    def targets(self, batch: ScoredBatch) -> tuple[DROBatch, dict[str, float]]:
        rewards = finite_rewards(batch[Role.REWARD])
        ref = self._reduce(batch[Role.REFERENCE], batch)
        if Role.POLICY not in self.roles:
            return DROBatch(tokens=batch.tokens, rewards=rewards, ref_logprobs=ref), {}
        log_ratio = self._reduce(batch[Role.POLICY], batch) - ref
        regularised = regression.regularised_reward(
            rewards=rewards, log_ratio=log_ratio, tau=self.tau
        )
        if self.variant == "value":
            baseline = batch[Role.CRITIC][:, 0].to(rewards)
        else:
            baseline = regularised.mean().expand_as(regularised)
        residual = regularised - baseline
        metrics = {
            "dro/baseline": float(baseline.mean()),
            "dro/residual_std": float(residual.std(correction=0)),
        }
        train_batch = BaselineBatch(
            tokens=batch.tokens,
            rewards=rewards,
            ref_logprobs=ref,
            baseline=baseline,
            regularised=regularised,
        )
        return train_batch, metrics

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, DROBatch)
        log_ratio = self._reduce(output.logprobs, batch) - batch.ref_logprobs
        return self._loss(log_ratio, output, batch, norm)

    def value_loss(self, values: Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, BaselineBatch)
        return regression.value_loss(
            values=values[:, 0].to(batch.regularised), regularised=batch.regularised, norm=norm
        )

    def _loss(
        self, log_ratio: Tensor, output: PolicyOutput, batch: DROBatch, norm: LossNorm
    ) -> LossOutput:
        if self.variant == "value":
            return regression.policy_loss(
                rewards=batch.rewards,
                values=expect(batch, BaselineBatch).baseline,
                log_ratio=log_ratio,
                tau=self.tau,
                norm=norm,
            )
        regularised = regression.regularised_reward(
            rewards=batch.rewards, log_ratio=log_ratio, tau=self.tau
        )
        if self.variant == "prompt_variance":
            group = batch.tokens.group
            return regression.prompt_variance_loss(regularised=regularised, group=group, norm=norm)
        if self.variant == "policy":
            baseline = expect(batch, BaselineBatch).baseline
        elif output.value is not None:
            baseline = output.value.to(regularised)
        else:
            raise ValueError("variant is 'shared_head' and the policy output has no value")
        return regression.residual_loss(regularised=regularised, baseline=baseline, norm=norm)

    def _reduce(self, logprobs: Tensor, batch: ScoredBatch | TrainBatch) -> Tensor:
        return reduce_logprobs(
            logprobs, batch.tokens.response_mask, reduction=self.logprob_reduction
        )
