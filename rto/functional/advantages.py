"""Advantages and returns from token rewards and values."""

from __future__ import annotations

import torch
from torch import Tensor

from rto.functional.masked import check_masked, masked_var, zero_masked


def gae(
    *, values: Tensor, rewards: Tensor, mask: Tensor, gamma: float, lambd: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016) -> advantages, returns, both [B, T].

    ``values[:, t]`` is V(state before token t). The value after the last token is 0, for truncated
    responses too.
    """
    check_masked(mask, values=values, rewards=rewards)
    values, rewards = zero_masked(values, mask), zero_masked(rewards, mask)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * next_values - values
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * lambd * running
        advantages[:, t] = running
    advantages = zero_masked(advantages, mask)
    return advantages, advantages + values


def explained_variance(*, values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the True entries of [B, T]: 1 is perfect."""
    check_masked(mask, values=values, returns=returns)
    values, returns = zero_masked(values, mask), zero_masked(returns, mask)
    return 1 - masked_var(returns - values, mask) / masked_var(returns, mask).clamp(min=1e-8)
