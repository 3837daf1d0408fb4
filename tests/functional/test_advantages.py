from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rto.functional.advantages import explained_variance, gae


def test_continuation_of_the_reward_vector():
    advantages, returns = gae(
        values=torch.tensor([[0.5, 0.4, 0.2, math.nan]]),
        rewards=torch.tensor([[0.048, -0.045, 10.003, math.nan]]),
        mask=torch.tensor([[True, True, True, False]]),
        gamma=1.0,
        lambd=0.95,
    )
    torch.testing.assert_close(advantages, torch.tensor([[8.5624575, 9.06785, 9.803, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[9.0624575, 9.46785, 10.003, 0.0]]))


def naive(values: list[float], rewards: list[float], gamma: float, lambd: float) -> list[float]:
    """A_t = sum_k (gamma lambda)^k (r_{t+k} + gamma V_{t+k+1} - V_{t+k}), V after the end 0."""
    values = [*values, 0.0]
    return [
        sum(
            (gamma * lambd) ** (k - t) * (rewards[k] + gamma * values[k + 1] - values[k])
            for k in range(t, len(rewards))
        )
        for t in range(len(rewards))
    ]


def random_rows() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    return torch.randn(3, 7).double(), torch.randn(3, 7).double(), mask


@pytest.mark.parametrize(("gamma", "lambd"), [(1.0, 0.95), (0.9, 1.0), (0.8, 0.5), (1.0, 0.0)])
def test_equals_the_definition(gamma: float, lambd: float):
    values, rewards, mask = random_rows()
    advantages, returns = gae(values=values, rewards=rewards, mask=mask, gamma=gamma, lambd=lambd)
    for row, length in enumerate([7, 4, 1]):
        expected = naive(
            values[row, :length].tolist(), rewards[row, :length].tolist(), gamma, lambd
        )
        assert advantages[row, :length].tolist() == pytest.approx(expected)
    torch.testing.assert_close(returns, (advantages + values).masked_fill(~mask, 0))
    assert not bool(advantages[~mask].any())


def test_lambda_1_returns_are_the_reward_to_go():
    values, rewards, mask = random_rows()
    _, returns = gae(values=values, rewards=rewards, mask=mask, gamma=1.0, lambd=1.0)
    kept = rewards.masked_fill(~mask, 0)
    torch.testing.assert_close(returns, kept.flip(1).cumsum(1).flip(1).masked_fill(~mask, 0))


def test_explained_variance_of_perfect_constant_and_opposite_values():
    returns = torch.tensor([[1.0, 3.0, math.nan]])
    mask = torch.tensor([[True, True, False]])
    for values, expected in (([1.0, 3.0], 1.0), ([7.0, 7.0], 0.0), ([-1.0, -3.0], -3.0)):
        row = torch.tensor([[*values, math.nan]])
        assert explained_variance(values=row, returns=returns, mask=mask) == expected


def by_column(
    values: Tensor, rewards: Tensor, mask: Tensor, gamma: float, lambd: float
) -> tuple[Tensor, Tensor]:
    """``gae`` as it was: a column of [B, T] after the other."""
    values, rewards = values.masked_fill(~mask, 0), rewards.masked_fill(~mask, 0)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * next_values - values
    advantages, running = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * lambd * running
        advantages[:, t] = running
    advantages = advantages.masked_fill(~mask, 0)
    return advantages, advantages + values


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (37, 129)])
def test_gae_by_token_is_gae_by_column_to_the_bit(shape: tuple[int, int]) -> None:
    torch.manual_seed(sum(shape))
    rows, length = shape
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))
    values, rewards = torch.randn(shape), torch.randn(shape)
    got = gae(values=values, rewards=rewards, mask=mask, gamma=0.99, lambd=0.95)
    for ours, former in zip(got, by_column(values, rewards, mask, 0.99, 0.95), strict=True):
        assert torch.equal(ours, former)
        assert ours.is_contiguous()
