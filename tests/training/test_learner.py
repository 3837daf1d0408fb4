"""Metrics of an update over several optimizer steps of several micro-batches, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from token_rows import token_batch
from torch import Tensor

from rto.training.deepspeed import ZeroEngine
from rto.training.learner import Objective, RankTrainer
from rto.types import LossNorm, LossOutput, StepStats, TokenBatch, TrainBatch


class Engine:
    """Step n has gradient norm 10 n and learning rate n (n from 1). Notes what flows back."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.steps = 0
        self.losses: list[float] = []

    @property
    def learning_rate(self) -> float:
        return float(self.steps + 1)

    def train(self) -> None: ...

    def backward(self, loss: Tensor) -> None:
        self.losses.append(float(loss))

    def step(self) -> float:
        self.steps += 1
        return 10.0 * self.steps


class FirstToken(RankTrainer):
    """Its output is each response's token ids; its loss the sum of the first ones, by sequence."""

    area = "policy"

    def forward(self, tokens: TokenBatch, *, temperature: float, method: Any = None) -> Any:
        return tokens.response_ids.float()

    def loss(self, method: Any, output: Any, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        first = output[:, 0].sum() / norm.sequences
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
def test_scores_come_back_in_the_order_of_the_rows() -> None:
    """Of a single step of three micro-batches."""
    plain, micros = objective(), [[0, 1], [2], [3]]
    stats, _ = updated(Objective(None, plain.batch, [micros], plain.norms[:1]), single_step=True)
    assert stats.policy_logprobs is not None
    assert stats.policy_logprobs.tolist() == [[3, 0], [5, 2], [7, 0], [11, 0]]
