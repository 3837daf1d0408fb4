"""Group baselines and returns to go; equal to TRL 1.16.0 where it has the same estimator.

Importing ``trl``'s trainers takes 17 seconds, so the statements that turn rewards into advantages
are compiled from its source and run on the names they read.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from rto.functional.advantages import group_advantages, returns_to_go

Baseline = Literal["mean", "leave_one_out"]
KINDS: list[tuple[Baseline, bool]] = [("mean", False), ("leave_one_out", False), ("mean", True)]

REWARDS = torch.tensor([1.0, -2.0, 4.0, 0.5, 3.0, -1.0, 0.0, 2.0, 7.5], dtype=torch.float64)
GROUP = torch.tensor([7, 2, 7, 2, 40, 7, 40, 7, 40])
"""Groups of 4, 2 and 3 rows, interleaved; numbers with gaps."""


def naive(
    rewards: list[float], group: list[int], *, baseline: Baseline, scale: bool
) -> list[float]:
    found = []
    for i, (reward, number) in enumerate(zip(rewards, group, strict=True)):
        members = [j for j, other in enumerate(group) if other == number]
        compared = [j for j in members if baseline == "mean" or j != i]
        advantage = reward - sum(rewards[j] for j in compared) / len(compared)
        deviation = statistics.stdev(rewards[j] for j in members) + 1e-4 if scale else 1.0
        found.append(advantage / deviation)
    return found


def by_group(x: Tensor) -> list[Tensor]:
    return [x[GROUP.eq(number)] for number in (2, 7, 40)]


def test_by_hand():
    """Groups (1, 5) and (0, 0, 6): means 3 and 2; of the others: 5, 1 and 3, 3, 0."""
    rewards, group = torch.tensor([1.0, 5.0, 0.0, 0.0, 6.0]), torch.tensor([0, 0, 1, 1, 1])
    mean = group_advantages(rewards, group, baseline="mean")
    assert mean.tolist() == [-2, 2, -2, -2, 4]
    left_out = group_advantages(rewards, group, baseline="leave_one_out")
    assert left_out.tolist() == pytest.approx([-4, 4, -3, -3, 6])
    # Unbiased variances: (4 + 4) / 1 and (4 + 4 + 16) / 2.
    scaled = group_advantages(rewards, group, baseline="mean", scale=True)
    first, second = math.sqrt(8) + 1e-4, math.sqrt(12) + 1e-4
    expected = [-2 / first, 2 / first, -2 / second, -2 / second, 4 / second]
    assert scaled.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("baseline", "scale"), KINDS)
def test_against_the_definition(baseline: Baseline, scale: bool):
    got = group_advantages(REWARDS, GROUP, baseline=baseline, scale=scale)
    expected = naive(REWARDS.tolist(), GROUP.tolist(), baseline=baseline, scale=scale)
    assert got.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("baseline", "scale"), KINDS)
def test_a_constant_per_group_changes_nothing(baseline: Baseline, scale: bool):
    shift = torch.where(GROUP == 7, 100.0, -3.0)
    torch.testing.assert_close(
        group_advantages(REWARDS + shift, GROUP, baseline=baseline, scale=scale),
        group_advantages(REWARDS, GROUP, baseline=baseline, scale=scale),
    )


@pytest.mark.parametrize(("baseline", "scale"), KINDS)
def test_order_and_numbers_of_the_groups_change_nothing(baseline: Baseline, scale: bool):
    order = torch.randperm(len(REWARDS), generator=torch.Generator().manual_seed(1))
    plain = group_advantages(REWARDS, GROUP, baseline=baseline, scale=scale)
    moved = group_advantages(REWARDS[order], 100 - GROUP[order], baseline=baseline, scale=scale)
    torch.testing.assert_close(moved, plain[order])


@pytest.mark.parametrize(("baseline", "scale"), KINDS)
def test_advantages_of_a_group_sum_to_0(baseline: Baseline, scale: bool):
    got = group_advantages(REWARDS, GROUP, baseline=baseline, scale=scale)
    assert [float(rows.sum()) for rows in by_group(got)] == pytest.approx([0] * 3, abs=1e-12)


def test_a_scaled_group_has_deviation_1_whatever_its_rewards_are():
    got = group_advantages(1000 * REWARDS, GROUP, baseline="mean", scale=True)
    assert [float(rows.std()) for rows in by_group(got)] == pytest.approx([1] * 3, rel=1e-6)


def test_equal_rewards_teach_nothing():
    equal = torch.full((4,), 0.3)
    got = group_advantages(equal, torch.tensor([0, 0, 1, 1]), baseline="mean", scale=True)
    assert got.abs().max() < 1e-3


@pytest.mark.parametrize(("baseline", "scale"), KINDS)
def test_a_group_of_one_is_refused(baseline: Baseline, scale: bool):
    with pytest.raises(ValueError, match="a group has one response: a group baseline needs two"):
        group_advantages(torch.ones(3), torch.tensor([0, 0, 1]), baseline=baseline, scale=scale)


def naive_returns(rewards: list[float], gamma: float) -> list[float]:
    return [
        sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards)))
        for t in range(len(rewards))
    ]


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_returns_to_go_against_the_definition(gamma: float):
    rewards = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    lengths = [6, 1, 4, 5]
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(-1)
    got = returns_to_go(rewards.masked_fill(~mask, math.nan), mask=mask, gamma=gamma)
    for row, length in enumerate(lengths):
        expected = naive_returns(rewards[row, :length].tolist(), gamma)
        assert got[row].tolist() == pytest.approx([*expected, *[0] * (6 - length)], rel=1e-12)


def test_returns_to_go_by_hand():
    """From the end, gamma 0.5: 4; 2 + 4/2 = 4; 1 + 4/2 = 3. What lies under the mask is 0."""
    rewards, mask = torch.tensor([[1.0, 2.0, 4.0, 9.0]]), torch.tensor([[True, True, True, False]])
    assert returns_to_go(rewards, mask=mask, gamma=0.5).tolist() == [[3, 4, 4, 0]]


SIZE = 4
EQUAL_GROUPS = torch.arange(3).repeat_interleave(SIZE)


def trl_advantages(file: str, rewards: Tensor, **settings: Any) -> Tensor:
    """TRL's advantages of rewards [B]: adjacent rows, ``SIZE`` to a prompt."""
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed")
    root = Path(spec.origin).parent / "trainer"
    std = definition(root / "utils.py", "nanstd")
    body = definition(root / file, "_generate_and_score_completions").body
    lines = [ast.unparse(statement) for statement in body]
    first = next(i for i, x in enumerate(lines) if x.startswith("unscorable_mask ="))
    last = next(i for i, x in enumerate(lines) if x.startswith("advantages = torch.nan_to_num"))
    shared = {"reward_weights": torch.ones(1, dtype=rewards.dtype)}
    scope: dict[str, Any] = {
        "torch": torch,
        "self": SimpleNamespace(**shared, **settings),
        "rewards_per_func": rewards.unsqueeze(-1),
        "num_generations": SIZE,
        "device": "cpu",
    }
    statements: list[ast.stmt] = [std, *body[first : last + 1]]
    exec(compile(ast.Module(statements, type_ignores=[]), file, "exec"), scope)
    return scope["advantages"]


def definition(path: Path, name: str) -> ast.FunctionDef:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next(x for x in ast.walk(tree) if isinstance(x, ast.FunctionDef) and x.name == name)


def equal_rewards() -> Tensor:
    return 5 * torch.randn(3 * SIZE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("setting", "scale"), [("group", True), ("none", False)])
def test_trl_grpo(setting: str, scale: bool):
    theirs = trl_advantages(
        "grpo_trainer.py",
        equal_rewards(),
        scale_rewards=setting,
        multi_objective_aggregation="sum_then_normalize",
    )
    ours = group_advantages(equal_rewards(), EQUAL_GROUPS, baseline="mean", scale=scale)
    torch.testing.assert_close(ours, theirs)
    assert ours.abs().max() > 1


def test_trl_rloo():
    theirs = trl_advantages(
        "rloo_trainer.py",
        equal_rewards(),
        reward_clip_range=None,
        beta=0.0,
        normalize_advantages=False,
    )
    ours = group_advantages(equal_rewards(), EQUAL_GROUPS, baseline="leave_one_out")
    torch.testing.assert_close(ours, theirs)
    assert ours.abs().max() > 1
