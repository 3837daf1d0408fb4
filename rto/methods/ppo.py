"""Proximal Policy Optimization with a KL penalty, as OpenRLHF does it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rto.functional import losses
from rto.functional.advantages import explained_variance, gae
from rto.functional.masked import whiten, zero_masked
from rto.methods.expect import expect
from rto.methods.policy_gradient import ActorBatch, PolicyGradient
from rto.methods.settings.policy_gradient import PPOSettings
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class PPOBatch(ActorBatch):
    """What PPO's losses read; all [B, T], 0 where the response mask is False."""

    returns: Tensor
    old_values: Tensor


@dataclass(frozen=True, kw_only=True)
class PPO(PPOSettings, PolicyGradient):
    """GAE over the values of a critic, which is trained with the policy (arXiv 1707.06347).

    With token rewards it is RTO: see ``rto.methods.rto``.
    """

    @property
    def roles(self) -> frozenset[Role]:
        return self.actor_roles | {Role.CRITIC}

    def targets(self, batch: ScoredBatch) -> tuple[PPOBatch, dict[str, float]]:
        mask = batch.tokens.response_mask
        rewards, parts = self.total_rewards(batch, self.sentence_reward(batch))
        values = zero_masked(batch[Role.CRITIC].float(), mask)
        advantages, returns = gae(
            values=values, rewards=rewards, mask=mask, gamma=self.gamma, lambd=self.lambd
        )
        train_batch = PPOBatch(
            tokens=batch.tokens,
            old_logprobs=self.old_logprobs(batch),
            ref_logprobs=zero_masked(batch[Role.REFERENCE], mask),
            advantages=whiten(advantages, mask, scale=not self.no_std_norm),
            returns=returns,
            old_values=values,
        )
        explained = explained_variance(values=values, returns=returns, mask=mask)
        return train_batch, {
            **{name: float(value) for name, value in parts.items()},
            **self.observe(batch, rewards=rewards, advantages=advantages),
            "critic/explained_variance": float(explained),
        }

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return self.actor_loss(output, batch, norm)

    def value_loss(self, values: Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, PPOBatch)
        return losses.value_loss(
            values=values,
            old_values=batch.old_values,
            returns=batch.returns,
            mask=batch.tokens.response_mask,
            norm=norm,
            clip=self.value_clip,
            reduction=self.loss_reduction,
        )
