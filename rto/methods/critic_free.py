"""Methods whose baseline is the other responses to the same prompt, or nothing.

They are values of one type, ``CriticFree``, and differ in its fields alone. ``METHODS`` has them by
name, with their papers' settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from rto.functional.advantages import group_advantages, returns_to_go
from rto.functional.masked import whiten, zero_masked
from rto.methods.policy_gradient import ActorBatch, PolicyGradient
from rto.protocols import Card
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch

Baseline = Literal["none", "mean", "leave_one_out"]


@dataclass(frozen=True, kw_only=True)
class CriticFree(PolicyGradient):
    """The sentence reward against its group, then the discounted sum of what is still to come.

    Token rewards (the KL, RTO's DPO term) are added to the sentence's, each token is credited
    with those after it, and they have no baseline of their own: OpenRLHF's order. RLOO's paper
    and TRL put the KL of the whole response inside the baseline; without token rewards all three
    agree.
    """

    baseline: Baseline
    """What is taken from a response's reward: nothing, its group's mean, or the others' mean."""
    group_scale: bool = False
    """Divide the reward less its mean by the group's standard deviation (GRPO)."""
    whitening: bool = False
    """Whiten the advantages over all tokens of the rollout (REINFORCE++)."""
    constant_length: bool = False
    """Divide a response's loss by the longest response that is allowed (Dr. GRPO)."""
    max_response_length: int = 1
    """That length; nothing else reads it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constant_length and self.loss_reduction != "token":
            raise ValueError(
                f"loss_reduction is {self.loss_reduction}: {self.card.name} divides by a constant "
                "length, leave it unset"
            )
        if self.group_scale and self.baseline != "mean":
            raise ValueError(f"group_scale is on and the baseline is {self.baseline}: need mean")

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


def _card(name: str, title: str, arxiv: str) -> Card:
    return Card(name, title, f"arXiv {arxiv}", feedback="rewards", modes=("online",))


REINFORCE_PP = CriticFree(
    card=_card("reinforce_pp", "REINFORCE++", "2501.03262"),
    baseline="none",
    whitening=True,
)
REINFORCE_BASELINE = CriticFree(
    card=_card("reinforce_baseline", "REINFORCE++ with a group baseline", "2501.03262"),
    baseline="mean",
    whitening=True,
    kl_use_loss=True,
    kl_estimator="k2",
)
RLOO = CriticFree(
    card=_card("rloo", "REINFORCE leave-one-out", "2402.14740"),
    baseline="leave_one_out",
)
GRPO = CriticFree(
    card=_card("grpo", "Group Relative Policy Optimization", "2402.03300"),
    baseline="mean",
    group_scale=True,
    kl_use_loss=True,
    kl_estimator="k3",
    loss_reduction="sequence",
)
DR_GRPO = CriticFree(
    card=_card("dr_grpo", "GRPO done right", "2503.20783"),
    baseline="mean",
    constant_length=True,
    kl_use_loss=True,
    kl_estimator="k3",
)

METHODS: Mapping[str, CriticFree] = MappingProxyType(
    {x.card.name: x for x in (REINFORCE_PP, REINFORCE_BASELINE, RLOO, GRPO, DR_GRPO)}
)
