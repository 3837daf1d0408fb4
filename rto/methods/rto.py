"""Reinforced Token Optimization (arXiv 2404.18922): PPO that holds the DPO token reward.

One iteration, for a response of tokens h = 1 .. H to one prompt, on ``rto.functional``:

    r_h = beta_1 log[pi_dpo / pi_ref]             DpoTokenReward: rewards.dpo_token_rewards
        - beta_2 log[pi / pi_ref]                 rewards.regularized_rewards, kl.kl_penalty
        + beta_3 r_sentence [h = H]               rewards.sentence_reward (equation 4.7)
    A_h, R_h = GAE(r, V), A whitened              advantages.gae, masked.whiten
    policy: -min(ratio A, clip(ratio) A)          losses.policy_loss
    critic: (V - R)^2 / 2, clipped                losses.value_loss

``PolicyGradient.total_rewards`` adds up r, ``PPO.targets`` makes A and R of it. The method is a
``PPO`` that holds ``token_rewards=(DpoTokenReward(),)``: ``RTOSettings`` makes it. Without a token
reward it trains as PPO does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from rto.functional.masked import masked_mean, masked_sum
from rto.functional.rewards import (
    as_shaping,
    at_response_end,
    at_segment_ends,
    dpo_token_rewards,
)
from rto.methods.settings.policy_gradient import DpoRewardSettings
from rto.types import Role, ScoredBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Variant = Literal["token", "semi", "delayed", "shaping"]


@dataclass(frozen=True, kw_only=True)
class DpoTokenReward:
    """Pays each token scale * log(pi_dpo / pi_ref), clipped: beta_1's term of equation 4.7
    (arXiv 2404.18922).

    Implements ``TokenReward``. A scale of 0 pays nothing and asks for no DPO policy.
    """

    scale: float = DpoRewardSettings.dpo_reward_scale
    """Factor of the raw log-ratio (beta_1); DPO's own beta does not enter."""
    clip: float = DpoRewardSettings.dpo_reward_clip
    """Bound of the scaled term per token; 0 switches the clip off. The paper has none."""
    variant: Variant = DpoRewardSettings.dpo_reward_variant
    """Where the term is paid: each token, segment ends, the end, or as shaping (sums to 0)."""
    separate_reference: bool = False
    """DPO was trained from another model than the KL reference; read that one's log-probs."""
    segment_end_ids: tuple[int, ...] = ()
    """Token ids that end a segment of the "semi" variant: sentence ends and EoS."""

    def __post_init__(self) -> None:
        for name, value in {"scale": self.scale, "clip": self.clip}.items():
            if value < 0:
                raise ValueError(
                    f"dpo_reward_{name} is {value}: 0 disables, negative has no meaning"
                )
        if self.variant == "semi" and not self.segment_end_ids:
            raise ValueError("dpo_reward_variant is semi and segment_end_ids is empty: give ids")

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset() if self.scale == 0 else frozenset({Role.DPO, self._reference})

    def __call__(self, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.scale == 0:
            return torch.zeros_like(batch.tokens.response_mask, dtype=torch.float32), {}
        term = self._term(batch, clip=self.clip)
        return self._placed(term, batch), self._observe(term, batch)

    @property
    def _reference(self) -> Role:
        return Role.DPO_REFERENCE if self.separate_reference else Role.REFERENCE

    def _term(self, batch: ScoredBatch, *, clip: float) -> Tensor:
        return dpo_token_rewards(
            dpo_logprobs=batch[Role.DPO],
            ref_logprobs=batch[self._reference],
            mask=batch.tokens.response_mask,
            scale=self.scale,
            clip=clip,
        )

    def _placed(self, term: Tensor, batch: ScoredBatch) -> Tensor:
        mask = batch.tokens.response_mask
        match self.variant:
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
                raise ValueError(f"unknown dpo_reward_variant {self.variant!r}")

    def _observe(self, term: Tensor, batch: ScoredBatch) -> dict[str, Tensor]:
        """Of the clipped term [B, T], before the variant places it."""
        mask = batch.tokens.response_mask
        unclipped = self._term(batch, clip=0)
        sums = masked_sum(term, mask, dim=-1)
        return {
            "dpo/sum_mean": sums.mean(),
            "dpo/sum_std": sums.std(correction=0),
            "dpo/token_mean": masked_mean(term, mask),
            "dpo/clipped_share": masked_mean((term != unclipped).float(), mask),
        }


def segment_end_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a sentence: their text ends in . ! ? or holds a newline; and EoS.

    The RTO paper leaves the delimiters of its semi-token variant open; these are ours.
    """
    eos = tokenizer.eos_token_id
    ends = [eos] if isinstance(eos, int) else []
    for token_id in range(len(tokenizer)):
        text = str(tokenizer.decode([token_id]))
        if "\n" in text or text.rstrip().endswith((".", "!", "?")):
            ends.append(token_id)
    return tuple(sorted(set(ends)))
