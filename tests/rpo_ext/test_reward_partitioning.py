"""RPO's partition and loss against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from rpo_ext.functional.reward_partitioning import (
    partition_loss,
    segment_logsumexp,
    uniform_targets,
)
from rto.types import LossNorm

REWARDS = torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
GROUP = torch.tensor([3, 3, 1, 1, 1])


def naive_targets(rewards: list[float], groups: list[int], tau: float) -> list[float]:
    targets = []
    for reward, group in zip(rewards, groups, strict=True):
        own = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        z = sum(math.exp(r / tau) for r in own) / len(own)
        targets.append(reward / tau - math.log(z))
    return targets


@pytest.mark.parametrize("tau", [0.5, 1.0, 5.0])
def test_targets_equal_their_definition(tau: float) -> None:
    expected = naive_targets(REWARDS.tolist(), GROUP.tolist(), tau)
    assert uniform_targets(REWARDS, GROUP, tau=tau).tolist() == pytest.approx(expected, abs=1e-12)


def test_exp_targets_average_to_one_in_each_prompt() -> None:
    targets = uniform_targets(REWARDS, GROUP, tau=1.0)
    for group in (1, 3):
        assert float(targets[group == GROUP].exp().mean()) == pytest.approx(1.0)


def test_a_shift_of_one_prompts_rewards_changes_nothing() -> None:
    shifted = REWARDS + torch.where(GROUP == 1, 7.0, -3.0)
    before, after = (uniform_targets(r, GROUP, tau=1.0) for r in (REWARDS, shifted))
    assert torch.allclose(before, after)


def test_large_tau_gives_the_centred_reward() -> None:
    tau = 1e6
    targets = uniform_targets(REWARDS, GROUP, tau=tau) * tau
    means = torch.where(GROUP == 1, REWARDS[2:].mean(), REWARDS[:2].mean())
    assert torch.allclose(targets, REWARDS - means, atol=1e-4)


def test_extreme_rewards_stay_finite() -> None:
    targets = uniform_targets(torch.tensor([1e4, -1e4]), torch.tensor([0, 0]), tau=0.01)
    assert bool(targets.isfinite().all())
    assert float(targets[0]) == pytest.approx(math.log(2), abs=1e-2)


def test_one_response_alone_has_target_zero() -> None:
    targets = uniform_targets(torch.tensor([3.0]), torch.tensor([0]), tau=1.0)
    assert targets.tolist() == [0.0]


def test_segment_logsumexp_needs_rows() -> None:
    with pytest.raises(ValueError, match=r"need \[B\]"):
        segment_logsumexp(torch.zeros(2, 1), torch.zeros(2))


def test_loss_is_the_mean_square_and_adds_over_shards() -> None:
    logprobs, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    targets = torch.tensor([0.0, 1.0])
    norm = LossNorm(tokens=9, sequences=2, groups=1)
    # gaps 0.5 and -2: (0.25 + 4) / 2 / 2
    whole = partition_loss(logprobs=logprobs, ref_logprobs=ref, targets=targets, norm=norm)
    assert float(whole.loss) == pytest.approx(1.0625)
    parts = [
        partition_loss(logprobs=logprobs[i], ref_logprobs=ref[i], targets=targets[i], norm=norm)
        for i in (slice(0, 1), slice(1, 2))
    ]
    assert float(parts[0].loss + parts[1].loss) == pytest.approx(1.0625)


def test_a_column_of_targets_is_an_error_not_a_matrix() -> None:
    with pytest.raises(ValueError, match="targets"):
        partition_loss(
            logprobs=torch.zeros(2),
            ref_logprobs=torch.zeros(2),
            targets=torch.zeros(2, 1),
            norm=LossNorm(1, 2, 1),
        )
