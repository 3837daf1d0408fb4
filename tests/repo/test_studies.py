"""The studies behind docs/results: exact computations against enumeration, and the program."""

from __future__ import annotations

import itertools
import json
import sys

import pytest
import torch

from benchmarks.studies import scalar_feedback, token_reward
from benchmarks.studies.scalar.arms import Trainee, rows_of
from benchmarks.studies.scalar.measures import (
    Point,
    frontier,
    partition_error,
    signal_to_noise,
)
from benchmarks.studies.scalar.task import EOS, WORD, WORDS, token_batch
from benchmarks.studies.scalar.task import Task as AnswerTask
from benchmarks.studies.scalar.world import Settings, World, make_world
from benchmarks.studies.tabular import Responses, Task, fit_dpo, fit_reward, sample, sample_pairs
from rpo_ext.methods.dro import DRO
from rpo_ext.methods.rpo import RPO
from rto.types import Role

LENGTH, VOCABULARY = 3, 3


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.make(length=LENGTH, vocabulary=VOCABULARY, seed=1)


def everything() -> Responses:
    ids = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
    start = torch.full((len(ids), 1), VOCABULARY)
    return Responses(ids, torch.cat([start, ids[:, :-1]], dim=1))


def test_values_are_those_of_all_responses(task: Task) -> None:
    policy = torch.randn(task.reference.shape, generator=torch.Generator().manual_seed(3))
    policy = policy.log_softmax(-1)
    every = everything()
    logprobs = every.look_up(policy).sum(-1)
    log_ratio = logprobs - every.look_up(task.reference).sum(-1)
    reward, kl = task.value(policy)
    assert float(logprobs.exp().sum()) == pytest.approx(1)
    assert reward == pytest.approx(
        float((logprobs.exp() * every.true_reward(task)).sum()), abs=1e-5
    )
    assert kl == pytest.approx(float((logprobs.exp() * log_ratio).sum()), abs=1e-5)
    assert task.best() == pytest.approx(float(every.true_reward(task).max()), abs=1e-5)


def test_samples_and_pairs_are_of_the_reference(task: Task) -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = sample(task.reference, 20_000, rng)
    assert float(drawn.true_reward(task).mean()) == pytest.approx(
        task.value(task.reference)[0], abs=0.03
    )
    reward = sample_pairs(task, 5000, rng).true_reward(task)
    gap = reward[0::2] - reward[1::2]
    wins = ((gap > 0) + 0.5 * (gap == 0)).mean()
    assert float(wins) == pytest.approx(float(gap.abs().sigmoid().mean()), abs=0.03)


def test_dpo_and_the_reward_model_find_the_reward(task: Task) -> None:
    rng = torch.Generator().manual_seed(0)
    pairs = sample_pairs(task, 4000, rng)
    dpo = fit_dpo(task, pairs, beta=0.5, steps=80, lr=0.1)
    model = fit_reward(task, pairs, steps=80, lr=0.1)
    drawn = sample(task.reference, 4000, rng)
    found = [
        (drawn.look_up(dpo) - drawn.look_up(task.reference)).sum(-1),
        model[drawn.before, drawn.ids].sum(-1),
        drawn.true_reward(task),
    ]
    assert float(torch.corrcoef(torch.stack(found))[:2, 2].min()) > 0.9


def test_the_study_writes_its_page(tmp_path, monkeypatch, capsys) -> None:
    arguments = ["token_reward", "--quick", "--seeds", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    token_reward.main()
    found = json.loads((tmp_path / "token_reward.json").read_text())
    assert len(found["blocks"]) == 4
    for rows in found["blocks"].values():
        assert [row["arm"] for row in rows] == list(token_reward.ARMS)
        assert rows[0]["final_minus_ppo"] == [0, 0, 0]
    assert "| rto |" in capsys.readouterr().out


def test_answers_are_paid_for_class_length_and_caution() -> None:
    task = AnswerTask(torch.arange(64.0).view(8, 8))
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
    page.write_text(f"old numbers\n{scalar_feedback.READING}\n\nWhat it shows.\n")
    arguments = ["scalar_feedback", "--quick", "--seeds", "1", "--architecture", "decoder"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path)])
    scalar_feedback.main()
    written = page.read_text()
    assert "old numbers" not in written
    assert written.endswith(f"\n\n{scalar_feedback.READING}\n\nWhat it shows.\n")
    found = json.loads((tmp_path / "scalar_feedback.json").read_text())["decoder"]
    runs = {(run["arm"], run["responses"], run["source"]): run for run in found["runs"]}
    assert len(runs) == len(found["runs"]) == 12 + 5 * (3 + 1) + 3
    assert runs["rpo", 1, "reference"]["kl"] == pytest.approx(0, abs=0.01)
    assert runs["dro", 4, "reference"]["value_error"]
    assert found["partition_error"][0]["uniform"].keys() == {"1", "2", "4", "8"}
