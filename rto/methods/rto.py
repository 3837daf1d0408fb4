"""Reinforced Token Optimization: PPO whose tokens are also paid the DPO policy's log-ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rto.functional.masked import masked_mean, masked_sum
from rto.functional.rewards import (
    as_shaping,
    at_response_end,
    at_segment_ends,
    dpo_token_rewards,
)
from rto.methods.policy_gradient import PolicyGradient
from rto.methods.ppo import PPO
from rto.protocols import Card
from rto.types import Role, ScoredBatch

Variant = Literal["token", "semi", "delayed", "shaping"]


@dataclass(frozen=True, kw_only=True)
class TokenReward(PolicyGradient):
    """Adds scale * log(pi_dpo / pi_ref) to each token's reward, clipped (arXiv 2404.18922, eq 4.7).

    A scale of 0 adds nothing and asks for no DPO policy.
    """

    dpo_reward_scale: float = 0.05
    """Factor of the raw log-ratio (beta_1); DPO's own beta does not enter."""
    dpo_reward_clip: float = 0.05
    """Bound of the scaled term per token; 0 switches the clip off. The paper has none."""
    dpo_reward_variant: Variant = "token"
    """Where the term is paid: each token, segment ends, the end, or as shaping (sums to 0)."""
    separate_dpo_reference: bool = False
    """DPO was trained from another model than the KL reference; read that one's log-probs."""
    segment_end_ids: tuple[int, ...] = ()
    """Token ids that end a segment of the "semi" variant: sentence ends and EoS."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dpo_reward_scale", "dpo_reward_clip"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: 0 disables, negative has no meaning"
                )
        if self.dpo_reward_variant == "semi" and not self.segment_end_ids:
            raise ValueError("dpo_reward_variant is semi and segment_end_ids is empty: give ids")

    @property
    def roles(self) -> frozenset[Role]:
        if self.dpo_reward_scale == 0:
            return super().roles
        reference = {Role.DPO_REFERENCE} if self.separate_dpo_reference else set()
        return super().roles | {Role.DPO} | reference

    def token_rewards(self, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        rewards, metrics = super().token_rewards(batch)
        if self.dpo_reward_scale == 0:
            return rewards, metrics
        term = self._dpo_term(batch, clip=self.dpo_reward_clip)
        return rewards + self._placed(term, batch), {**metrics, **self._observe_dpo(term, batch)}

    def _dpo_term(self, batch: ScoredBatch, *, clip: float) -> Tensor:
        reference = Role.DPO_REFERENCE if self.separate_dpo_reference else Role.REFERENCE
        return dpo_token_rewards(
            dpo_logprobs=batch[Role.DPO],
            ref_logprobs=batch[reference],
            mask=batch.tokens.response_mask,
            scale=self.dpo_reward_scale,
            clip=clip,
        )

    def _placed(self, term: Tensor, batch: ScoredBatch) -> Tensor:
        mask = batch.tokens.response_mask
        match self.dpo_reward_variant:
            case "token":
                return term
            case "semi":
                ids = batch.tokens.response_ids
                ends = torch.isin(ids, ids.new_tensor(self.segment_end_ids))
                return at_segment_ends(term, mask=mask, ends=ends)
            case "delayed":
                return at_response_end(term, mask=mask)
            case "shaping":
                return as_shaping(term, mask=mask)
            case _:
                raise ValueError(f"unknown dpo_reward_variant {self.dpo_reward_variant!r}")

    def _observe_dpo(self, term: Tensor, batch: ScoredBatch) -> dict[str, Tensor]:
        mask = batch.tokens.response_mask
        unclipped = self._dpo_term(batch, clip=0)
        sums = masked_sum(term, mask, dim=-1)
        reward_std = self.sentence_reward(batch).std(correction=0)
        return {
            "dpo/sum_mean": sums.mean(),
            "dpo/sum_std": sums.std(correction=0),
            "dpo/token_mean": masked_mean(term, mask),
            "dpo/clipped_share": masked_mean((term != unclipped).float(), mask),
            "dpo/to_reward_std_ratio": sums.std(correction=0) / reward_std.clamp(min=1e-8),
        }


@dataclass(frozen=True, kw_only=True)
class RTO(TokenReward, PPO):
    """PPO with the token reward; with a scale of 0, PPO itself."""

    @property
    def card(self) -> Card:
        return Card(
            name="rto",
            title="Reinforced Token Optimization",
            paper="arXiv 2404.18922",
            feedback="rewards",
            modes=("online",),
        )
