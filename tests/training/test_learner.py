"""Metrics of an update over several optimizer steps of several micro-batches, by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from token_rows import token_batch
from torch import Tensor

from rto.training.deepspeed import ZeroEngine
from rto.training.guard import StepOutcome
from rto.training.learner import Objective, RankTrainer
from rto.types import LossNorm, LossOutput, SkippedStep, StepStats, TokenBatch, TrainBatch


class Engine:
    """Step n has gradient norm 10 n and learning rate n (n from 1); the norms of steps in ``bad``
    are not finite. Notes what flows back."""

    device = torch.device("cpu")

    def __init__(self, bad: Collection[int] = ()) -> None:
        self.steps = 0
        self.losses: list[float] = []
        self.bad = bad
        self.loss = 0.0

    @property
    def learning_rate(self) -> float:
        return float(self.steps + 1)

    def train(self) -> None: ...

    def backward(self, loss: Tensor) -> Tensor:
        self.losses.append(float(loss))
        self.loss += float(loss)
        return loss.isfinite()

    def step(self) -> StepOutcome:
        self.steps += 1
        norm = math.inf if self.steps in self.bad else 10.0 * self.steps
        loss, self.loss = self.loss, 0.0
        return StepOutcome(math.isfinite(norm) and math.isfinite(loss), loss, norm)


class FirstToken(RankTrainer):
    """Its output is each response's token ids; its loss the sum of the first ones, by sequence: NaN
    where one of them is 7 and there is a method."""

    area = "policy"

    def forward(self, tokens: TokenBatch, *, temperature: float, method: Any = None) -> Any:
        return tokens.response_ids.float()

    def loss(self, method: Any, output: Any, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        first = output[:, 0].sum() / norm.sequences
        if method is not None and 7 in output[:, 0]:
            first = first * math.nan
        return LossOutput(first, {"x/first": first})


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def objective(coef: float = 1.0) -> Objective:
    """Rows 3, 5, 7 in a first step of two micro-batches, 11 in a second one of its own."""
    batch = TrainBatch(token_batch([[1]] * 4, [[3], [5, 2], [7], [11]]))
    norms = [LossNorm(tokens=4, sequences=3, groups=3), LossNorm(tokens=1, sequences=1, groups=1)]
    return Objective(None, batch, [[[0, 1], [2]], [[3]]], norms, coef=coef)


def updated(*objectives: Objective, single_step: bool = False) -> tuple[StepStats, Engine]:
    engine = Engine()
    return FirstToken(cast(ZeroEngine, engine)).update(*objectives, single_step=single_step), engine


@pytest.mark.usefixtures("alone")
def test_metrics_are_means_over_the_optimizer_steps() -> None:
    """Step 1: (3 + 5 + 7) / 3 = 5, summed over its micro-batches; step 2: 11. Their mean is 8, each
    step with the same weight whatever its rows. 4 prompt and 5 response tokens in all."""
    stats, engine = updated(objective())
    assert engine.losses == pytest.approx([8 / 3, 7 / 3, 11])
    assert stats.metrics == {
        "x/first": pytest.approx(8),
        "policy/grad_norm": (10 + 20) / 2,
        "policy/lr": 2.0,
        "policy/skipped_steps": 0,
    }
    assert (stats.optimizer_steps, stats.tokens, stats.policy_logprobs) == (2, 9, None)


@pytest.mark.usefixtures("alone")
def test_a_micro_batch_of_other_ranks_adds_nothing() -> None:
    """It stands in with this rank's first rows, with weight 0 and without metrics."""
    plain = objective()
    stood_in = Objective(None, plain.batch, [[[0, 1], [2], []], [[3]]], plain.norms)
    stats, engine = updated(stood_in)
    assert engine.losses == pytest.approx([8 / 3, 7 / 3, 0, 11])
    assert stats.metrics["x/first"] == pytest.approx(8)
    assert stats.tokens == 9


@pytest.mark.usefixtures("alone")
def test_the_weight_of_an_objective_is_in_its_gradient_alone() -> None:
    stats, engine = updated(objective(coef=0.5))
    assert engine.losses == pytest.approx([4 / 3, 7 / 6, 5.5])
    assert stats.metrics["x/first"] == pytest.approx(8)


@pytest.mark.usefixtures("alone")
def test_a_step_that_is_left_out_is_in_no_mean_and_its_rows_are_named() -> None:
    """Step 2 of 11: the means are step 1's, and both steps' tokens were computed with."""
    trainer = FirstToken(cast(ZeroEngine, Engine(bad=[2])), max_skipped=1)
    stats = trainer.update(objective())
    assert stats.metrics == {
        "x/first": pytest.approx(5),
        "policy/grad_norm": 10,
        "policy/lr": 2.0,
        "policy/skipped_steps": 1,
    }
    assert stats.tokens == 9
    assert stats.skipped == (SkippedStep("policy", 1, "gradient norm is inf", (3,)),)
    assert not stats.diverged


@pytest.mark.usefixtures("alone")
def test_of_a_loss_that_is_not_finite_the_micro_batch_is_named() -> None:
    trainer = FirstToken(cast(ZeroEngine, Engine()), max_skipped=3)
    stats = trainer.update(dataclasses.replace(objective(), method="NaN for row 2"))
    (skipped,) = stats.skipped
    assert (skipped.step, skipped.problem, skipped.rows) == (0, "loss is nan", (2,))


@pytest.mark.usefixtures("alone")
def test_too_many_in_a_row_end_the_update_and_one_that_is_applied_begins_anew() -> None:
    trainer = FirstToken(cast(ZeroEngine, Engine(bad=[1, 2, 4, 5])), max_skipped=2)
    first, second, third = (trainer.update(objective()) for _ in range(3))
    assert [len(stats.skipped) for stats in (first, second, third)] == [2, 1, 1]
    assert not any(stats.diverged for stats in (first, second, third))
    ends = FirstToken(cast(ZeroEngine, Engine(bad=[1, 2])), max_skipped=1).update(objective())
    assert ends.diverged
    assert "policy/grad_norm" not in ends.metrics
    engine = Engine(bad=[1])
    assert FirstToken(cast(ZeroEngine, engine)).update(objective()).diverged
    assert engine.steps == 1, "nothing more is computed"


@pytest.mark.usefixtures("alone")
def test_scores_come_back_in_the_order_of_the_rows() -> None:
    """Of a single step of three micro-batches."""
    plain, micros = objective(), [[0, 1], [2], [3]]
    stats, _ = updated(Objective(None, plain.batch, [micros], plain.norms[:1]), single_step=True)
    assert stats.policy_logprobs is not None
    assert stats.policy_logprobs.tolist() == [[3, 0], [5, 2], [7, 0], [11, 0]]
