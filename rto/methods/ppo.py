"""Proximal Policy Optimization with a KL penalty, as OpenRLHF does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from rto.functional import losses
from rto.functional.advantages import explained_variance, gae
from rto.functional.kl import Estimator, adaptive_kl_coef, kl_penalty
from rto.functional.losses import ISCorrection, Reduction
from rto.functional.masked import masked_mean, masked_sum, masked_var, whiten, zero_masked
from rto.functional.rewards import regularized_rewards, sentence_reward
from rto.methods.base import PlainMethod
from rto.methods.narrow import expect
from rto.protocols import Card, Output
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TokenBatch, TrainBatch


@dataclass(frozen=True)
class PPOBatch(TrainBatch):
    """What PPO's losses read; all [B, T], 0 where the response mask is False."""

    old_logprobs: Tensor
    ref_logprobs: Tensor
    advantages: Tensor
    returns: Tensor
    old_values: Tensor


@dataclass(frozen=True, kw_only=True)
class PPO(PlainMethod):
    """Per-token KL in the reward (or the loss), sentence reward at the end, GAE, clipped losses."""

    kl_coef: float = 0.01
    kl_target: float | None = None
    """Target of the adaptive controller; the coefficient stays fixed without one."""
    kl_horizon: int = 10000
    kl_estimator: Estimator = "k1"
    kl_use_loss: bool = False
    """Put the KL into the loss instead of the reward."""
    gamma: float = 1.0
    lambd: float = 0.95
    no_std_norm: bool = False
    clip_low_high: tuple[float, float] = (0.2, 0.2)
    dual_clip: float | None = None
    entropy_coef: float | None = None
    """0 logs the entropy without using it; None computes none."""
    value_clip: float | None = 0.5
    reward_coef: float = 1.0
    reward_clip_range: tuple[float, float] | None = (-10.0, 10.0)
    loss_reduction: Reduction = "token"
    is_correction: ISCorrection | None = None
    is_correction_threshold: tuple[float, float] = (0.5, 5.0)

    @property
    def card(self) -> Card:
        return Card(
            name="ppo",
            title="Proximal Policy Optimization",
            paper="arXiv 1707.06347",
            feedback="rewards",
            modes=("online",),
        )

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset({Role.POLICY, Role.REFERENCE, Role.CRITIC, Role.REWARD})

    @property
    def outputs(self) -> frozenset[Output]:
        return frozenset() if self.entropy_coef is None else frozenset({"entropy"})

    def targets(self, batch: ScoredBatch) -> tuple[PPOBatch, dict[str, float]]:
        mask = batch.tokens.response_mask
        rewards, parts = self.token_rewards(batch)
        values = zero_masked(batch[Role.CRITIC].float(), mask)
        advantages, returns = gae(
            values=values, rewards=rewards, mask=mask, gamma=self.gamma, lambd=self.lambd
        )
        train_batch = PPOBatch(
            tokens=batch.tokens,
            old_logprobs=zero_masked(batch[Role.POLICY], mask),
            ref_logprobs=zero_masked(batch[Role.REFERENCE], mask),
            advantages=whiten(advantages, mask, scale=not self.no_std_norm),
            returns=returns,
            old_values=values,
        )
        observed = {
            **parts,
            **self._observe(batch),
            "return/mean": masked_sum(rewards, mask, dim=-1).mean(),
            "advantage/mean": masked_mean(advantages, mask),
            "advantage/std": masked_var(advantages, mask).sqrt(),
            "critic/explained_variance": explained_variance(
                values=values, returns=returns, mask=mask
            ),
        }
        metrics = {name: float(value) for name, value in observed.items()}
        return train_batch, {**metrics, "kl/coef": self.kl_coef}

    def token_rewards(self, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward of each token [B, T] that GAE sums up, and metrics of its parts."""
        sentence = self.sentence_reward(batch)
        kl_coef = 0.0 if self.kl_use_loss else self.kl_coef
        rewards = regularized_rewards(
            sentence=sentence, kl=self._kl(batch), kl_coef=kl_coef, mask=batch.tokens.response_mask
        )
        return rewards, {}

    def sentence_reward(self, batch: ScoredBatch) -> Tensor:
        """The part [B] of the reward that the last token gets."""
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

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, PPOBatch)
        mask = batch.tokens.response_mask
        policy = losses.policy_loss(
            logprobs=output.logprobs,
            old_logprobs=batch.old_logprobs,
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

    def _kl(self, batch: ScoredBatch) -> Tensor:
        return kl_penalty(
            logprobs=batch[Role.POLICY],
            ref_logprobs=batch[Role.REFERENCE],
            mask=batch.tokens.response_mask,
            estimator=self.kl_estimator,
        )

    def _sampler_weights(self, batch: PPOBatch) -> Tensor | None:
        if self.is_correction is None:
            return None
        return losses.sampler_weights(
            old_logprobs=batch.old_logprobs,
            sampler_logprobs=batch.tokens.sampler_logprobs,
            mask=batch.tokens.response_mask,
            kind=self.is_correction,
            threshold=self.is_correction_threshold,
        )

    def _observe(self, batch: ScoredBatch) -> dict[str, Tensor]:
        mask, kl, reward = batch.tokens.response_mask, self._kl(batch), batch[Role.REWARD].float()
        low, high = self.reward_clip_range or (float("-inf"), float("inf"))
        return {
            "reward/mean": reward.mean(),
            "reward/std": reward.std(correction=0),
            "reward/clipped_share": ((reward < low) | (reward > high)).float().mean(),
            "kl/mean": masked_mean(kl, mask),
            "kl/sequence": masked_sum(kl, mask, dim=-1).mean(),
            **response_metrics(batch.tokens),
            **losses.sampler_mismatch(
                logprobs=batch[Role.POLICY],
                sampler_logprobs=batch.tokens.sampler_logprobs,
                mask=mask,
            ),
        }


def response_metrics(tokens: TokenBatch) -> dict[str, Tensor]:
    lengths = tokens.response_mask.sum(-1).float()
    return {
        "response/num": lengths.new_tensor(len(lengths)),
        "response/length": lengths.mean(),
        "response/truncated_share": (~tokens.finished).float().mean(),
    }
