"""What PPO, RTO and the methods without a critic share.

``total_rewards`` is what each token is paid, ``actor_loss`` the clipped surrogate that the policy
descends. Between the two a method makes advantages of the rewards: with the values of a critic
(``rto.methods.ppo``) or without (``rto.methods.critic_free``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from rto.functional import losses
from rto.functional.kl import adaptive_kl_coef, kl_penalty
from rto.functional.masked import masked_mean, masked_sum, masked_var, zero_masked
from rto.functional.rewards import place_at_end, regularized_rewards, sentence_reward
from rto.methods.base import PlainMethod
from rto.methods.expect import expect
from rto.methods.settings.policy_gradient import PolicyGradientSettings
from rto.protocols import Output, TokenReward
from rto.sections.ranges import FIXED
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch

SUM_STD = "/sum_std"
"""Metric of a token reward: the deviation, over responses, of what their tokens are paid in sum."""


@dataclass(frozen=True)
class ActorBatch(TrainBatch):
    """What the actor's loss reads; all [B, T], 0 where the response mask is False."""

    old_logprobs: Tensor | None
    """Of the policy that sampled; None in a single step, whose own forward is of that policy."""
    ref_logprobs: Tensor
    advantages: Tensor


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(PolicyGradientSettings, PlainMethod):
    """KL in the reward or in the loss, sentence reward at the end, clipped ratio (PPO, arXiv
    1707.06347, eq 7), entropy.
    """

    token_rewards: tuple[TokenReward, ...] = field(default=(), metadata=FIXED)
    """What tokens are paid beside the sentence reward and the KL; nothing in plain PPO."""
    single_step: bool = field(default=False, metadata=FIXED)
    """The update is a single optimizer step: the ratio is 1 and its gradient that of the
    log-probs, so nothing needs the policy's log-probs before the update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.single_step and (not self.kl_use_loss or self.is_correction is not None):
            raise ValueError(
                "single_step: the KL in the reward and the importance correction read the policy's "
                "log-probs before the update"
            )

    @property
    def actor_roles(self) -> frozenset[Role]:
        """The scores that rewards and loss of the policy are made of."""
        before = frozenset() if self.single_step else {Role.POLICY}
        paid = [reward.roles for reward in self.token_rewards]
        return frozenset({Role.REFERENCE, Role.REWARD}).union(before, *paid)

    @property
    def outputs(self) -> frozenset[Output]:
        return frozenset() if self.entropy_coef is None else frozenset({"entropy"})

    def total_rewards(
        self, batch: ScoredBatch, sentence: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What each token is paid [B, T], and the metrics of the token rewards.

        The last token of a response gets ``sentence`` [B]. Every token pays for its KL, unless
        that is in the loss, and gets each of the token rewards.
        """
        mask, metrics = batch.tokens.response_mask, dict[str, Tensor]()
        if self.kl_use_loss:
            rewards = place_at_end(sentence, mask)
        else:
            rewards = regularized_rewards(
                sentence=sentence, kl=self._kl(batch), kl_coef=self.kl_coef, mask=mask
            )
        for token_reward in self.token_rewards:
            paid, observed = token_reward(batch)
            rewards = rewards + paid
            metrics |= {**observed, **self._beside_the_sentence(observed, batch)}
        return rewards, metrics

    def sentence_reward(self, batch: ScoredBatch) -> Tensor:
        """The clipped reward [B] times its coefficient."""
        reward = batch[Role.REWARD].float()
        return sentence_reward(reward, clip_range=self.reward_clip_range, coef=self.reward_coef)

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        if self.kl_target is None:
            return self
        coef = adaptive_kl_coef(
            self.kl_coef,
            observed=metrics["kl/mean"],
            target=self.kl_target,
            horizon=self.kl_horizon,
            num_samples=int(metrics["response/num"]),
        )
        return dataclasses.replace(self, kl_coef=coef)

    def actor_loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        """The clipped surrogate, plus the KL where it is in the loss, less the entropy's bonus."""
        batch = expect(batch, ActorBatch)
        mask = batch.tokens.response_mask
        policy = losses.policy_loss(
            logprobs=output.logprobs,
            old_logprobs=_sampled_from(output, batch),
            advantages=batch.advantages,
            mask=mask,
            norm=norm,
            clip_low_high=self.clip_low_high,
            dual_clip=self.dual_clip,
            weights=self._sampler_weights(batch),
            reduction=self.loss_reduction,
        )
        loss, metrics = policy.loss, dict(policy.metrics)
        if self.kl_use_loss:
            kl = kl_penalty(
                logprobs=output.logprobs,
                ref_logprobs=batch.ref_logprobs,
                mask=mask,
                estimator=self.kl_estimator,
            )
            kl = losses.aggregate(kl, mask=mask, norm=norm, reduction=self.loss_reduction)
            loss, metrics["policy/kl_loss"] = loss + self.kl_coef * kl, kl.detach()
        if self.entropy_coef is not None:
            if output.entropy is None:
                raise ValueError("entropy_coef is set and the policy output has no entropy")
            entropy = losses.aggregate(
                output.entropy, mask=mask, norm=norm, reduction=self.loss_reduction
            )
            loss, metrics["policy/entropy"] = loss - self.entropy_coef * entropy, entropy.detach()
        return LossOutput(loss, metrics)

    def _kl(self, batch: ScoredBatch) -> Tensor:
        return kl_penalty(
            logprobs=batch[Role.POLICY],
            ref_logprobs=batch[Role.REFERENCE],
            mask=batch.tokens.response_mask,
            estimator=self.kl_estimator,
        )

    def old_logprobs(self, batch: ScoredBatch) -> Tensor | None:
        """Log-probs [B, T] of the policy that sampled, as ``ActorBatch`` holds them."""
        if self.single_step:
            return None
        return zero_masked(batch[Role.POLICY], batch.tokens.response_mask)

    def _sampler_weights(self, batch: ActorBatch) -> tuple[Tensor, Tensor] | None:
        if self.is_correction is None or batch.old_logprobs is None:
            return None
        return losses.sampler_weights(
            old_logprobs=batch.old_logprobs,
            sampler_logprobs=batch.tokens.sampler_logprobs,
            mask=batch.tokens.response_mask,
            kind=self.is_correction,
            threshold=self.is_correction_threshold,
        )

    def _beside_the_sentence(
        self, observed: Mapping[str, Tensor], batch: ScoredBatch
    ) -> dict[str, Tensor]:
        """How far a token reward's sums vary, in standard deviations of the sentence reward."""
        reward_std = self.sentence_reward(batch).std(correction=0)
        return {
            name.removesuffix(SUM_STD) + "/to_reward_std_ratio": std / reward_std.clamp(min=1e-8)
            for name, std in observed.items()
            if name.endswith(SUM_STD)
        }

    def observe(
        self, batch: ScoredBatch, *, rewards: Tensor, advantages: Tensor
    ) -> dict[str, float]:
        """What ``rto.observe`` cannot know: token rewards and advantages [B, T], the KL
        by the method's own estimator, the clipping of the reward."""
        mask, reward = batch.tokens.response_mask, batch[Role.REWARD].float()
        low, high = self.reward_clip_range or (float("-inf"), float("inf"))
        observed = {
            "reward/clipped_share": ((reward < low) | (reward > high)).float().mean(),
            "return/mean": masked_sum(rewards, mask, dim=-1).mean(),
            "advantage/mean": masked_mean(advantages, mask),
            "advantage/std": masked_var(advantages, mask).sqrt(),
        }
        if not self.single_step:
            kl = self._kl(batch)
            observed["kl/mean"] = masked_mean(kl, mask)
            observed["kl/sequence"] = masked_sum(kl, mask, dim=-1).mean()
        return {**{name: float(value) for name, value in observed.items()}, "kl/coef": self.kl_coef}


def _sampled_from(output: PolicyOutput, batch: ActorBatch) -> Tensor:
    return output.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
