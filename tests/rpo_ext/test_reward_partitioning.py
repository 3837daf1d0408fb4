"""RPO's partitions and loss against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rpo_ext.functional.reward_partitioning import (
    batch_mean_log_partition,
    importance_log_partition,
    loo_log_partition,
    partition_loss,
    ref_log_partition,
    uniform_log_partition,
)
from rto.types import LossNorm

REWARDS = torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
GROUP = torch.tensor([3, 3, 1, 1, 1])
REF = torch.tensor([-1.2, -0.3, -2.0, -0.7, -1.1], dtype=torch.float64)
SAMPLER = torch.tensor([-1.0, -0.5, -1.5, -0.9, -2.1], dtype=torch.float64)

Partition = Callable[[Tensor], Tensor]
PARTITIONS: dict[str, Partition] = {
    "uniform": lambda scaled: uniform_log_partition(scaled, GROUP),
    "loo": lambda scaled: loo_log_partition(scaled, GROUP),
    "ref": lambda scaled: ref_log_partition(scaled=scaled, ref_logprobs=REF, group=GROUP),
    "batch_mean": lambda scaled: batch_mean_log_partition(
        scaled=scaled, ref_logprobs=REF, group=GROUP
    ),
    "importance": lambda scaled: importance_log_partition(
        scaled=scaled, ref_logprobs=REF, sampler_logprobs=SAMPLER, group=GROUP
    ),
}


def naive_log_partition(name: str, row: int, tau: float) -> float:
    own = [j for j in range(5) if GROUP[j] == GROUP[row]]
    pay = {j: math.exp(float(REWARDS[j]) / tau) for j in range(5)}
    ref = {j: math.exp(float(REF[j])) for j in range(5)}
    match name:
        case "uniform":
            return math.log(sum(pay[j] for j in own) / len(own))
        case "loo":
            return math.log(sum(pay[j] for j in own if j != row) / (len(own) - 1))
        case "ref":
            return math.log(sum(ref[j] * pay[j] for j in own))
        case "importance":
            weights = {j: ref[j] / math.exp(float(SAMPLER[j])) for j in own}
            return math.log(sum(weights[j] * pay[j] for j in own) / len(own))
        case _:
            return sum(naive_log_partition("ref", j, tau) for j in range(5)) / 5


@pytest.mark.parametrize("tau", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("name", PARTITIONS)
def test_partition_equals_its_definition(name: str, tau: float) -> None:
    expected = [naive_log_partition(name, row, tau) for row in range(5)]
    assert PARTITIONS[name](REWARDS / tau).tolist() == pytest.approx(expected, abs=1e-12)


def test_ref_targets_plus_the_reference_sum_to_one_per_prompt() -> None:
    reached = (REWARDS - PARTITIONS["ref"](REWARDS) + REF).exp()
    assert float(reached[GROUP == 1].sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(reached[GROUP == 3].sum()) == pytest.approx(1.0, abs=1e-12)


def test_exp_of_uniform_targets_averages_to_one_per_prompt() -> None:
    reached = (REWARDS - PARTITIONS["uniform"](REWARDS)).exp()
    assert float(reached[GROUP == 1].mean()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", PARTITIONS)
def test_only_the_batch_mean_feels_a_shift_of_one_prompts_rewards(name: str) -> None:
    shifted = REWARDS + torch.where(GROUP == 1, 7.0, -3.0)
    before, after = (r - PARTITIONS[name](r) for r in (REWARDS, shifted))
    assert torch.allclose(before, after) == (name != "batch_mean")


def test_large_tau_gives_the_centred_reward() -> None:
    tau = 1e6
    targets = tau * (REWARDS / tau - uniform_log_partition(REWARDS / tau, GROUP))
    means = torch.where(GROUP == 1, 2.5 / 3, 0.0)
    assert torch.allclose(targets, REWARDS - means, atol=1e-5)


@pytest.mark.parametrize("name", PARTITIONS)
def test_huge_rewards_stay_finite(name: str) -> None:
    scaled = torch.tensor([3e2, -3e2, 1e4, -1e4, 0.0], dtype=torch.float64)
    assert bool(PARTITIONS[name](scaled).isfinite().all())


def test_improbable_responses_stay_finite() -> None:
    """exp(-10,000) is 0 in any precision; the log-sum is -10,000 + log 5 + 2 all the same."""
    ref = torch.full((5,), -1e4, dtype=torch.float64)
    same = torch.zeros(5, dtype=torch.long)
    got = ref_log_partition(scaled=torch.full_like(ref, 2.0), ref_logprobs=ref, group=same)
    assert got.tolist() == pytest.approx([-1e4 + math.log(5) + 2] * 5)


def test_one_response_alone() -> None:
    """uniform: target 0; ref: target -log pi_ref, whatever the reward; loo: undefined."""
    one, group = torch.tensor([3.0]), torch.tensor([0])
    assert (one - uniform_log_partition(one, group)).tolist() == [0.0]
    ref = torch.tensor([-2.5])
    for reward in (one, -one):
        target = reward - ref_log_partition(scaled=reward, ref_logprobs=ref, group=group)
        assert float(target) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="needs 2 responses per prompt, group 0 has 1"):
        loo_log_partition(one, group)


def test_uniform_is_unbiased_for_z_under_the_reference_and_importance_under_the_sampler() -> None:
    """Exact expectation over all pairs of two draws from a table of three responses."""
    rewards, ref, sampler = (
        torch.tensor(row, dtype=torch.float64)
        for row in ([0.5, -1.0, 2.0], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1])
    )
    exact = float((ref * rewards.exp()).sum())
    both = torch.zeros(2, dtype=torch.long)
    uniform = importance = off_policy = 0.0
    for pair in torch.cartesian_prod(torch.arange(3), torch.arange(3)):
        under_ref, under_sampler = (float(p[pair].prod()) for p in (ref, sampler))
        plain = float(uniform_log_partition(rewards[pair], both)[0].exp())
        weighted = importance_log_partition(
            scaled=rewards[pair],
            ref_logprobs=ref.log()[pair],
            sampler_logprobs=sampler.log()[pair],
            group=both,
        )
        uniform += under_ref * plain
        off_policy += under_sampler * plain
        importance += under_sampler * float(weighted[0].exp())
    assert uniform == pytest.approx(exact, rel=1e-12)
    assert importance == pytest.approx(exact, rel=1e-12)
    assert off_policy != pytest.approx(exact, rel=0.1)


def test_batch_mean_has_the_gradient_of_the_released_codes_broadcast() -> None:
    """There V is [B, 1], so (r - V) / tau is [B, B]; the losses differ by Var(V) / (2 tau^2)."""
    tau = 2.0
    policy = torch.tensor([-1.0, -0.6, -1.5, -0.2, -2.0], dtype=torch.float64, requires_grad=True)
    v = tau * PARTITIONS["ref"](REWARDS / tau).unsqueeze(1)
    released = 0.5 * ((policy - REF) - (REWARDS - v) / tau).square().mean()
    targets = REWARDS / tau - PARTITIONS["batch_mean"](REWARDS / tau)
    ours = partition_loss(log_ratio=policy - REF, targets=targets, norm=LossNorm(5, 5, 2)).loss
    for theirs, own in zip(
        torch.autograd.grad(released, policy), torch.autograd.grad(ours, policy), strict=True
    ):
        torch.testing.assert_close(own, theirs)
    spread = v.var(correction=0) / (2 * tau**2)
    torch.testing.assert_close(ours + spread, released)


def test_loss_is_the_mean_square_and_adds_over_shards() -> None:
    log_ratio, targets = torch.tensor([0.5, -1.0]), torch.tensor([0.0, 1.0])
    norm = LossNorm(tokens=9, sequences=2, groups=1)
    # gaps 0.5 and -2: (0.25 + 4) / 2 / 2
    whole = partition_loss(log_ratio=log_ratio, targets=targets, norm=norm)
    assert float(whole.loss) == pytest.approx(1.0625)
    parts = [
        partition_loss(log_ratio=log_ratio[i], targets=targets[i], norm=norm).loss
        for i in (slice(0, 1), slice(1, 2))
    ]
    assert float(parts[0] + parts[1]) == pytest.approx(1.0625)


def test_a_column_of_targets_is_an_error_not_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"targets \(2, 1\): need \[B\]"):
        partition_loss(log_ratio=torch.zeros(2), targets=torch.zeros(2, 1), norm=LossNorm(1, 2, 1))
