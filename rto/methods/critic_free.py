"""Methods whose baseline is the other responses to the same prompt, or nothing.

They are values of one type, ``CriticFree``, and differ in its fields alone. The values with their
papers' settings are at the end of ``rto.methods.settings.policy_gradient``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from rto.functional.advantages import group_advantages, returns_to_go
from rto.functional.masked import whiten, zero_masked
from rto.methods.policy_gradient import ActorBatch, PolicyGradient
from rto.methods.settings.policy_gradient import CriticFreeSettings
from rto.sections.ranges import FIXED
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True, kw_only=True)
class CriticFree(CriticFreeSettings, PolicyGradient):
    """The sentence reward against its group, then the discounted sum of what is still to come.

    Token rewards (the KL, RTO's DPO term) are added to the sentence's, each token is credited
    with those after it, and they have no baseline of their own: OpenRLHF's order. RLOO's paper
    and TRL put the KL of the whole response inside the baseline; without token rewards all three
    agree.
    """

    max_response_length: int = field(default=1, metadata=FIXED)
    """What ``constant_length`` divides by; nothing else reads it."""

    @property
    def roles(self) -> frozenset[Role]:
        return self.actor_roles

    @property
    def min_responses(self) -> int:
        return 1 if self.baseline == "none" else 2

    def sentence_term(self, batch: ScoredBatch) -> Tensor:
        """What the last token gets [B]: the sentence reward less its baseline."""
        reward = self.sentence_reward(batch)
        if self.baseline == "none":
            return reward
        group = batch.tokens.group
        return group_advantages(reward, group, baseline=self.baseline, scale=self.group_scale)

    def targets(self, batch: ScoredBatch) -> tuple[ActorBatch, dict[str, float]]:
        mask = batch.tokens.response_mask
        rewards, parts = self.total_rewards(batch, self.sentence_term(batch))
        advantages = returns_to_go(rewards, mask=mask, gamma=self.gamma)
        scale = not self.no_std_norm
        train_batch = ActorBatch(
            tokens=batch.tokens,
            old_logprobs=self.old_logprobs(batch),
            ref_logprobs=zero_masked(batch[Role.REFERENCE], mask),
            advantages=whiten(advantages, mask, scale=scale) if self.whitening else advantages,
        )
        return train_batch, {
            **{name: float(value) for name, value in parts.items()},
            **self.observe(batch, rewards=rewards, advantages=advantages),
        }

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        result = self.actor_loss(output, batch, norm)
        return self._over_constant_length(result, norm) if self.constant_length else result

    def _over_constant_length(self, mean: LossOutput, norm: LossNorm) -> LossOutput:
        """Dr. GRPO (arXiv 2503.20783, section 3.2): a response's sum over tokens, divided by a
        constant in place of its length.

        ``mean`` is over the tokens of the step: times their number it is the sum again.
        """
        factor = norm.tokens / (norm.sequences * self.max_response_length)
        loss = mean.loss * factor
        return LossOutput(loss, {**mean.metrics, "policy/loss": loss.detach()})
