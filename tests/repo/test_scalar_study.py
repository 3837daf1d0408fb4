"""The study of scalar feedback: its task, its measures against naive ones, and the program."""

from __future__ import annotations

import itertools
import json
import sys

import pytest
import torch

from benchmarks.studies import scalar_feedback
from benchmarks.studies.results import READING
from benchmarks.studies.scalar.arms import Trainee, rows_of
from benchmarks.studies.scalar.measures import (
    Point,
    frontier,
    partition_error,
    signal_to_noise,
)
from benchmarks.studies.scalar.task import EOS, WORD, WORDS, Task, token_batch
from benchmarks.studies.scalar.world import Settings, World, make_world
from rpo_ext.methods.dro import DRO
from rpo_ext.methods.rpo import RPO
from rto.types import Role


def test_answers_are_paid_for_class_length_and_caution() -> None:
    task = Task(torch.arange(64.0).view(8, 8))
    prompt = torch.tensor([[2 + 3, 10 + 1, 16 + 2, 16 + 5]])
    own, other, unwanted = WORD + 3 * WORDS + 1, WORD + 1, WORD
    ids = torch.tensor(
        [
            [own, own, own, own, EOS, own],
            [own, other, EOS, 0, 0, 0],
            [unwanted, own, 5, own, own, 5],
        ]
    )
    tokens = token_batch(prompt.repeat(3, 1), ids)
    assert tokens.response_mask.sum(-1).tolist() == [5, 3, 6]
    assert tokens.finished.tolist() == [True, True, False]
    offset = 2 * 8 + 5
    wanted = [offset + 2, offset + 2 / 2 - 0.25 * 2, offset + 2 * 3 / 4 - 0.5]
    assert task.rewards(tokens).tolist() == pytest.approx(wanted)


def test_the_frontier_is_the_hull_through_the_reference() -> None:
    points = [Point(3.0, 0.4, 1), Point(2.0, 0.1, 1), Point(2.1, 0.2, 1), Point(1.0, 0.9, 1)]
    found = [frontier(points, start=1.0, kl=kl) for kl in (0.0, 0.05, 0.1, 0.2, 0.4, 0.9)]
    assert found == pytest.approx([1.0, 1.5, 2.0, 2 + 1 / 3, 3.0, 3.0])


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    settings = scalar_feedback.tiny(Settings())
    return make_world("decoder", settings, seed=1, path=tmp_path_factory.mktemp("reference"))


def test_rows_are_of_the_first_answers_to_each_prompt(world: World) -> None:
    rewards = world.rated[Role.REWARD].view(16, 8)[:, :4]
    plain = rows_of(world.rated, "all", each=8, responses=4, seed=0).rows
    best = rows_of(world.rated, "best", each=8, responses=4, seed=0).rows
    shuffled = rows_of(world.rated, "shuffled", each=8, responses=4, seed=0).rows
    assert torch.equal(plain[Role.REWARD], rewards.flatten())
    assert torch.equal(best[Role.REWARD], rewards.max(-1).values)
    assert torch.equal(world.rewards(best.tokens), rewards.max(-1).values)
    mixed = shuffled[Role.REWARD].view(16, 4)
    assert torch.equal(mixed.sort(-1).values, rewards.sort(-1).values)
    assert not torch.equal(mixed, rewards)
    assert torch.equal(shuffled.tokens.response_ids, plain.tokens.response_ids)


def test_the_partition_is_compared_with_true_values(world: World) -> None:
    data = rows_of(world.rated, "all", each=8, responses=4, seed=0)
    true = torch.linspace(-1, 1, 5).double()
    found = world.rated[Role.REWARD].view(16, 8)[:5, :4].double().exp().mean(-1).log()
    wanted = float((found - true).square().mean().sqrt())
    assert partition_error(RPO(), data, true) == pytest.approx(wanted, rel=1e-5)


def test_signal_and_noise_are_of_the_minibatches(world: World) -> None:
    data = rows_of(world.rated, "all", each=8, responses=8, seed=0)
    trainee = Trainee.start(DRO(), world, seed=0)
    parameters = list(trainee.policy.model.parameters())
    first, second = (
        torch.cat([g.flatten() for g in torch.autograd.grad(trainee.loss(batch), parameters)])
        for batch in itertools.islice(data.batches(64, seed=3), 2)
    )
    noise = (first - second).square().sum() / 2
    signal = ((first + second) / 2).square().sum() - noise / 2
    found = signal_to_noise(trainee, data, rows=64, count=2, seed=3)
    assert found == pytest.approx(float(signal / noise), rel=1e-3)


def test_the_comparison_of_scalar_methods_writes_its_page(tmp_path, monkeypatch) -> None:
    page = tmp_path / "scalar_feedback.md"
    page.write_text(f"old numbers\n{READING}\n\nWhat it shows.\n")
    arguments = ["scalar_feedback", "--quick", "--seeds", "1", "--parts", "decoder"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path)])
    scalar_feedback.main()
    written = page.read_text()
    assert "old numbers" not in written
    assert written.endswith(f"\n\n{READING}\n\nWhat it shows.\n")
    found = json.loads((tmp_path / "scalar_feedback.json").read_text())["decoder"]
    runs = {(run["arm"], run["responses"], run["source"]): run for run in found["runs"]}
    assert len(runs) == len(found["runs"]) == 12 + 5 * (3 + 1) + 3
    assert runs["rpo", 1, "reference"]["kl"] == pytest.approx(0, abs=0.01)
    assert runs["dro", 4, "reference"]["value_error"]
    assert found["partition_error"][0]["uniform"].keys() == {"1", "2", "4", "8"}
