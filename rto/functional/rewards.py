"""Token rewards: the sentence reward, the KL penalty and RTO's DPO term (arXiv 2404.18922, eq 4.7).

r(h) = beta_1 log[pi_dpo / pi_ref] - beta_2 log[pi / pi_ref] + beta_3 r_sentence [h = H]
"""

from __future__ import annotations

import torch
from torch import Tensor

from rto.functional.masked import check_masked, masked_sum, zero_masked


def sentence_reward(
    reward: Tensor, *, clip_range: tuple[float, float] | None, coef: float
) -> Tensor:
    """Equation 4.7's beta_3 r_sentence [B], of the (normalised) reward: clip, then coefficient."""
    return coef * (reward if clip_range is None else reward.clamp(*clip_range))


def place_at_end(values: Tensor, mask: Tensor) -> Tensor:
    """Values [B] at the last real token of each row of the mask [B, T], 0 elsewhere."""
    check_masked(mask)
    if values.shape != mask.shape[:1]:
        raise ValueError(f"values have shape {tuple(values.shape)}, mask {tuple(mask.shape)}")
    return torch.where(_is_last(mask), values.unsqueeze(-1), 0.0)


def regularized_rewards(*, sentence: Tensor, kl: Tensor, kl_coef: float, mask: Tensor) -> Tensor:
    """The reward of ordinary PPO [B, T]: sentence [B] at the end minus kl_coef times kl [B, T].

    These are the terms of beta_3 and beta_2 of equation 4.7.
    """
    check_masked(mask, kl=kl)
    return place_at_end(sentence, mask) - kl_coef * zero_masked(kl, mask)


def dpo_token_rewards(
    *, dpo_logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, scale: float, clip: float
) -> Tensor:
    """RTO's dense term, beta_1 of equation 4.7, [B, T]: mask, then scale, then clip to +-clip.

    ``scale`` multiplies the raw log-ratio, DPO's own beta does not enter. 0 gives exact zeros;
    a ``clip`` of 0 bounds nothing.
    """
    check_masked(mask, dpo_logprobs=dpo_logprobs, ref_logprobs=ref_logprobs)
    if scale < 0 or clip < 0:
        raise ValueError(
            f"DPO reward scale is {scale} and clip {clip}: 0 disables, negative has no meaning"
        )
    if scale == 0:
        return torch.zeros_like(dpo_logprobs, dtype=torch.float32)
    term = scale * zero_masked(dpo_logprobs.float() - ref_logprobs.float(), mask)
    return term.clamp(-clip, clip) if clip > 0 else term


def at_segment_ends(rewards: Tensor, *, mask: Tensor, ends: Tensor) -> Tensor:
    """Semi-RTO: each segment's rewards [B, T] summed at its end; mask and ends are bool [B, T].

    The tokens after a row's last delimiter are paid at the row's last token.
    """
    check_masked(mask, rewards=rewards, ends=ends)
    ends = ends | _is_last(mask)
    segment = ends.cumsum(-1) - ends.long()
    sums = torch.zeros_like(rewards).scatter_add(1, segment, zero_masked(rewards, mask))
    return zero_masked(sums.gather(1, segment), ends)


def at_response_end(rewards: Tensor, *, mask: Tensor) -> Tensor:
    """DDPO: the whole sum [B, T] paid at the last token."""
    return place_at_end(masked_sum(rewards, mask, dim=-1), mask)


def as_shaping(rewards: Tensor, *, mask: Tensor) -> Tensor:
    """RS-PPO: the rewards [B, T] less their own sum at the last token, so each row adds up to 0."""
    return zero_masked(rewards, mask) - at_response_end(rewards, mask=mask)


def _is_last(mask: Tensor) -> Tensor:
    """True at the last True of each row [B, T]."""
    if not bool(mask.any(-1).all()):
        raise ValueError("a response has no token: its reward has no place")
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(-1, keepdim=True)
    return positions == last
