"""Reward-aware Preference Optimization: fit reward differences by their size, not their sign."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rpo_ext.functional import reward_aware as distances
from rpo_ext.functional.checks import finite_rewards, require_responses
from rpo_ext.functional.responses import Reduction, reduce_logprobs
from rpo_ext.settings import RewardAwareSettings
from rto.functional.segments import segment_max, segment_size, sum_over_groups
from rto.methods.base import PlainMethod
from rto.methods.expect import expect
from rto.protocols import RewardScaling
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class RewardAwareBatch(TrainBatch):
    """Reward and reference log-prob of each response, both [B]."""

    rewards: Tensor
    ref_logprobs: Tensor


@dataclass(frozen=True, kw_only=True)
class RewardAware(RewardAwareSettings, PlainMethod):
    """D[beta log pi/pi_ref, eta r] over the responses of a prompt (arXiv 2502.00203), NVIDIA's RPO.

    The optimum is pi_ref exp(eta/beta r), so eta / beta is what Reward Partitioning calls 1 / tau.
    """

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset({Role.REWARD, Role.REFERENCE})

    @property
    def whole_groups(self) -> bool:
        return True

    @property
    def reduction(self) -> Reduction:
        return "mean" if self.length_normalise else "sum"

    @property
    def reward_scaling(self) -> RewardScaling:
        return "within_prompt"

    @property
    def min_responses(self) -> int:
        return 2

    def targets(self, batch: ScoredBatch) -> tuple[RewardAwareBatch, dict[str, float]]:
        group = batch.tokens.group
        require_responses(group, minimum=2, what="reward_aware")
        rewards = finite_rewards(batch[Role.REWARD])
        ref = reduce_logprobs(
            batch[Role.REFERENCE], batch.tokens.response_mask, reduction=self.reduction
        )
        tied = segment_max(rewards, group) == -segment_max(-rewards, group)
        num_prompts = len(group.unique())
        metrics = {
            "reward_aware/target_entropy": distances.target_entropy(self.eta * rewards, group),
            "reward_aware/tied_share": sum_over_groups(tied.float(), group) / num_prompts,
            "reward_aware/responses": sum_over_groups(segment_size(rewards, group), group)
            / num_prompts,
        }
        train_batch = RewardAwareBatch(tokens=batch.tokens, rewards=rewards, ref_logprobs=ref)
        return train_batch, {name: float(value) for name, value in metrics.items()}

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, RewardAwareBatch)
        mask, group = batch.tokens.response_mask, batch.tokens.group
        logprobs = reduce_logprobs(output.logprobs, mask, reduction=self.reduction)
        log_ratio = logprobs - batch.ref_logprobs
        distance = self._distance(log_ratio, batch.rewards, group).sum() / norm.groups
        sft = -(distances.best(batch.rewards, group) * logprobs).sum() / norm.groups
        loss = distance + self.sft_weight * sft if self.sft_weight else distance
        observed = distances.observe(
            log_ratio=log_ratio, rewards=batch.rewards, group=group, norm=norm
        )
        metrics = {"reward_aware/loss": distance.detach(), "reward_aware/sft": sft.detach()}
        return LossOutput(loss, {**metrics, **observed})

    def _distance(self, log_ratio: Tensor, rewards: Tensor, group: Tensor) -> Tensor:
        implicit, target = self.beta * log_ratio, self.eta * rewards
        match self.distance:
            case "kl_target_policy":
                measure = distances.kl_target_policy
            case "kl_policy_target":
                measure = distances.kl_policy_target
            case "sqloo":
                measure = distances.sqloo
        return measure(implicit=implicit, target=target, group=group)
