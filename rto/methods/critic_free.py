"""Methods whose baseline is the other responses to the same prompt, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rto.functional.advantages import group_advantages, returns_to_go
from rto.functional.masked import whiten, zero_masked
from rto.methods.policy_gradient import ActorBatch
from rto.methods.rto import TokenReward
from rto.protocols import Card
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch

Name = Literal["reinforce_pp", "reinforce_baseline", "rloo", "grpo", "dr_grpo"]

TITLES: Mapping[Name, tuple[str, str]] = {
    "reinforce_pp": ("REINFORCE++", "arXiv 2501.03262"),
    "reinforce_baseline": ("REINFORCE++ with a group baseline", "arXiv 2501.03262"),
    "rloo": ("REINFORCE leave-one-out", "arXiv 2402.14740"),
    "grpo": ("Group Relative Policy Optimization", "arXiv 2402.03300"),
    "dr_grpo": ("GRPO done right", "arXiv 2503.20783"),
}


@dataclass(frozen=True, kw_only=True)
class CriticFree(TokenReward):
    """The sentence reward against its group, then the discounted sum of what is still to come.

    Token rewards (the KL, RTO's DPO term) are added to the sentence's, each token is credited
    with those after it, and they have no baseline of their own: OpenRLHF's order. RLOO's paper
    and TRL put the KL of the whole response inside the baseline; without token rewards all three
    agree. REINFORCE++ and its variant whiten the result over the whole rollout.
    """

    name: Name
    dpo_reward_scale: float = 0.0
    max_response_length: int = 1
    """The constant by which Dr. GRPO divides a response's loss, instead of its length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "dr_grpo" and self.loss_reduction != "token":
            raise ValueError(
                f"loss_reduction is {self.loss_reduction}: dr_grpo divides by a constant length, "
                "leave it unset"
            )

    @property
    def card(self) -> Card:
        title, paper = TITLES[self.name]
        return Card(name=self.name, title=title, paper=paper, feedback="rewards", modes=("online",))

    @property
    def min_responses(self) -> int:
        return 1 if self.name == "reinforce_pp" else 2

    def sentence_term(self, batch: ScoredBatch) -> Tensor:
        """The sentence reward less its baseline."""
        reward, group = self.sentence_reward(batch), batch.tokens.group
        match self.name:
            case "reinforce_pp":
                return reward
            case "rloo":
                return group_advantages(reward, group, baseline="leave_one_out")
            case "grpo":
                return group_advantages(reward, group, baseline="mean", scale=True)
            case _:
                return group_advantages(reward, group, baseline="mean")

    def targets(self, batch: ScoredBatch) -> tuple[ActorBatch, dict[str, float]]:
        mask = batch.tokens.response_mask
        rewards, parts = self.token_rewards(batch)
        advantages = returns_to_go(rewards, mask=mask, gamma=self.gamma)
        whitened = self.name in ("reinforce_pp", "reinforce_baseline")
        train_batch = ActorBatch(
            tokens=batch.tokens,
            old_logprobs=self._old_logprobs(batch),
            ref_logprobs=zero_masked(batch[Role.REFERENCE], mask),
            advantages=(
                whiten(advantages, mask, scale=not self.no_std_norm) if whitened else advantages
            ),
        )
        metrics = {name: float(value) for name, value in parts.items()}
        return train_batch, {
            **metrics,
            **self._observe(batch, rewards=rewards, advantages=advantages),
        }

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        result = super().loss(output, batch, norm)
        if self.name != "dr_grpo":
            return result
        # Of a mean over tokens, a sum over tokens per response and a constant.
        factor = norm.tokens / (norm.sequences * self.max_response_length)
        loss = result.loss * factor
        return LossOutput(loss, {**result.metrics, "policy/loss": loss.detach()})
