"""Advantages and returns from token rewards and values."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rto.functional.masked import check_masked, masked_var, zero_masked
from rto.functional.segments import segment_mean, segment_size, segment_sum


def gae(
    *, values: Tensor, rewards: Tensor, mask: Tensor, gamma: float, lambd: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq 16) -> advantages, returns: [B, T].

    ``values[:, t]`` is V(state before token t). The value after the last token is 0, for truncated
    responses too.
    """
    check_masked(mask, values=values, rewards=rewards)
    values, rewards = zero_masked(values, mask), zero_masked(rewards, mask)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * next_values - values
    # Each step reads and writes the numbers of one token, which lie side by side in [T, B] alone.
    by_token = deltas.t().contiguous()
    summed = torch.zeros_like(by_token)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(len(by_token))):
        running = by_token[t] + gamma * lambd * running
        summed[t] = running
    advantages = zero_masked(summed.t(), mask)
    return advantages, advantages + values


def returns_to_go(rewards: Tensor, *, mask: Tensor, gamma: float) -> Tensor:
    """Discounted sum of a token's reward and those after it, [B, T] -> [B, T]."""
    # GAE with lambda 1 and all values 0 is that sum.
    no_values = torch.zeros_like(rewards)
    return gae(values=no_values, rewards=rewards, mask=mask, gamma=gamma, lambd=1.0)[0]


def group_advantages(
    rewards: Tensor,
    group: Tensor,
    *,
    baseline: Literal["mean", "leave_one_out"],
    scale: bool = False,
) -> Tensor:
    """Rewards [B] less what the other responses of the group [B] got, or all of them.

    "leave_one_out" (RLOO, arXiv 2402.14740, eq 7); "mean" (Dr. GRPO, arXiv 2503.20783); with
    ``scale``, over the group's standard deviation plus 1e-4 (GRPO, arXiv 2402.03300, section
    4.1.2; TRL's epsilon, OpenRLHF's is 1e-9). The deviation is the unbiased one, as in both.
    """
    sizes = segment_size(rewards, group)
    if bool((sizes < 2).any()):
        raise ValueError("a group has one response: a group baseline needs two or more")
    centred = rewards - segment_mean(rewards, group)
    if baseline == "leave_one_out":
        # r less the others' mean; no sum without one's own reward has to be taken.
        return centred * (sizes / (sizes - 1))
    if not scale:
        return centred
    return centred / ((segment_sum(centred.square(), group) / (sizes - 1)).sqrt() + 1e-4)


def explained_variance(*, values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the True entries of [B, T]: 1 is perfect."""
    check_masked(mask, values=values, returns=returns)
    values, returns = zero_masked(values, mask), zero_masked(returns, mask)
    return 1 - masked_var(returns - values, mask) / masked_var(returns, mask).clamp(min=1e-8)
