from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from token_rows import token_batch
from torch import Tensor

from rto.errors import TrainingDiverged
from rto.finite import MOST_NAMED, Samples, sampled, stored
from rto.types import (
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    SkippedStep,
    StepStats,
    TrainBatch,
    logprob_array,
    token_array,
)

TOKENS = token_batch([[1]] * 3, [[3], [5, 2], [7, 7]])
STATS = StepStats({}, 3, tokens=1)


@dataclass(frozen=True)
class Targets(TrainBatch):
    advantages: Tensor
    """[B, T]."""
    weights: Tensor
    """[B]."""


def samples() -> Samples:
    rollouts = [
        Rollout(Prompt(40 + i, (1,), ""), i, token_array([3]), logprob_array([0]), "", True, 0, 0)
        for i in range(3)
    ]
    return sampled(12, rollouts)


def grid(row: int, column: int, value: float) -> Tensor:
    values = torch.zeros(3, 2)
    values[row, column] = value
    return values


def test_what_is_finite_passes_as_it_is() -> None:
    scored = ScoredBatch(TOKENS, {Role.POLICY: torch.zeros(3, 2), Role.REWARD: torch.ones(3)})
    assert samples().finite(scored) is scored
    batch = Targets(TOKENS, torch.zeros(3, 2), torch.ones(3))
    assert samples().finite_targets(batch) is batch


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_is_told_with_its_iteration_prompt_and_sample(value: float) -> None:
    scored = ScoredBatch(TOKENS, {Role.REFERENCE: grid(1, 1, value)})
    told = f"iteration 12: score of reference is {value}, .*prompt 41 sample 1\\)"
    with pytest.raises(TrainingDiverged, match=told):
        samples().finite(scored)
    rewards = ScoredBatch(TOKENS, {Role.REWARD: torch.tensor([0, 0, value])})
    with pytest.raises(TrainingDiverged, match="score of reward is .*prompt 42 sample 2"):
        samples().finite(rewards)


def test_padding_may_hold_anything() -> None:
    scored = ScoredBatch(TOKENS, {Role.POLICY: grid(0, 1, float("nan"))})
    assert samples().finite(scored) is scored


def test_a_target_is_told_by_the_name_of_its_field() -> None:
    batch = Targets(TOKENS, grid(2, 0, float("nan")), torch.ones(3))
    with pytest.raises(TrainingDiverged, match=r"advantages is nan, .*\(prompt 42 sample 2\)"):
        samples().finite_targets(batch)
    batch = replace(batch, advantages=torch.zeros(3, 2), weights=torch.tensor([1, torch.inf, 1]))
    with pytest.raises(TrainingDiverged, match=r"weights is inf, .*\(prompt 41 sample 1\)"):
        samples().finite_targets(batch)


def test_stored_rows_are_told_by_step_and_row_and_not_all_of_many() -> None:
    many = token_batch([[1]] * 9, [[3]] * 9)
    scored = ScoredBatch(many, {Role.REWARD: torch.full((9,), torch.nan)})
    with pytest.raises(TrainingDiverged, match=r"step 3: .*\(row 0, .*row 4 and 4 more\)"):
        stored(3).finite(scored)
    assert MOST_NAMED == 5


def test_each_step_that_was_left_out_is_a_line() -> None:
    left = (
        SkippedStep("policy", 0, "loss is nan", (0, 2)),
        SkippedStep("critic", 2, "gradient norm is inf"),
    )
    assert list(samples().skipped(STATS)) == []
    assert list(samples().skipped(replace(STATS, skipped=left))) == [
        "left out: iteration 12, policy optimizer step 1: loss is nan "
        "(prompt 40 sample 0, prompt 42 sample 2)",
        "left out: iteration 12, critic optimizer step 3: gradient norm is inf",
    ]


def test_one_too_many_ends_the_run_behind_the_lines_before_it() -> None:
    left = tuple(SkippedStep("policy", step, "loss is nan", (step,)) for step in range(3))
    told = samples().skipped(replace(STATS, skipped=left, diverged=True))
    assert [next(told).endswith(f"sample {row})") for row in range(2)] == [True, True]
    with pytest.raises(TrainingDiverged, match=r"step 3: loss is nan \(prompt 42.*in a row"):
        next(told)
