"""The studies behind docs/results: exact computations against enumeration, and the program."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.studies import (
    reward_aware,
    token_reward,
    token_reward_transformer,
    transformer,
    transformer_world,
)
from benchmarks.studies.arms import ARMS
from benchmarks.studies.results import READING
from benchmarks.studies.tabular import Responses, Task, fit_dpo, fit_reward, sample, sample_pairs
from rto.types import Role, ScoredBatch

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
        assert [row["arm"] for row in rows] == list(ARMS)
        assert rows[0]["final_minus_ppo"] == [0, 0, 0]
    assert "| rto |" in capsys.readouterr().out


def test_the_best_response_of_the_transformers_task_is_the_best_of_all() -> None:
    sizes = replace(transformer.TINY, words=3, max_length=4, price=0.1)
    world = transformer.Task.make(sizes, seed=2)
    ids = torch.tensor(list(itertools.product(range(sizes.words + 1), repeat=sizes.max_length)))
    best = [
        float(
            world.true_reward(transformer.token_batch(prompt.expand(len(ids)), ids, each=1)).max()
        )
        for prompt in torch.arange(1, sizes.words + 1)
    ]
    assert world.best() == pytest.approx(sum(best) / len(best), abs=1e-5)


def test_the_true_reward_of_a_response_is_the_sum_of_its_words() -> None:
    world = transformer.Task.make(replace(transformer.TINY, words=3, price=0.1), seed=0)
    ids = torch.tensor([[3, 1, 0, 2], [0, 2, 2, 2], [1, 1, 2, 3]])
    tokens = transformer.token_batch(torch.tensor([2, 1, 1]), ids, each=1)
    assert tokens.response_mask.sum(-1).tolist() == [3, 1, 4]
    assert tokens.finished.tolist() == [True, True, False]
    expected = [world.reward[2, 2, 3] + world.reward[2, 3, 1] - 0.1, torch.tensor(0.0)]
    assert torch.allclose(world.true_reward(tokens)[:2], torch.stack(expected))


def test_samples_follow_the_policy() -> None:
    """On a policy's own responses, the mean of -log p is that of the entropies."""
    base = transformer.Base.make(transformer.TINY, seed=0)
    drawn = base.sample(base.reference, 4000, torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = base.reference(drawn, with_entropy=True)
    assert output.entropy is not None
    assert float((output.logprobs + output.entropy).sum(-1).mean()) == pytest.approx(0, abs=0.05)


def test_a_world_is_a_function_of_its_seed() -> None:
    feedback = transformer_world.Feedback(pairs=64, passes=1)
    first, again = [transformer_world.World.make(transformer.TINY, feedback, 4) for _ in range(2)]
    assert first.constants == again.constants
    assert first.correlations == again.correlations


def test_shuffled_terms_stay_in_their_response() -> None:
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    ids = torch.tensor([[1, 2, 0, 0], [0, 0, 0, 0]])
    tokens = transformer.token_batch(torch.tensor([1, 2]), ids, each=1)
    terms = torch.tensor([[1.0, 2.0, 3.0, 0.0], [4.0, 0.0, 0.0, 0.0]])
    batch = ScoredBatch(tokens, {Role.DPO: terms, Role.REFERENCE: torch.zeros(2, 4)})
    orders = set()
    for seed in range(8):
        rng = torch.Generator().manual_seed(seed)
        moved = token_reward_transformer.shuffled(batch, rng)[Role.DPO]
        assert bool((moved[~mask] == 0).all())
        assert torch.equal(moved.sort().values, terms.sort().values)
        orders.add(tuple(moved[0].tolist()))
    assert len(orders) > 1


def test_the_transformer_study_writes_its_page(tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "token_reward_transformer.md"
    page.write_text(f"# Old\n\n{READING}\n\nBy hand.\n")
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--seeds", "2", "--out", str(tmp_path)])
    token_reward_transformer.main()
    found = json.loads(page.with_suffix(".json").read_text())
    assert [len(rows) for rows in found["blocks"].values()] == [len(ARMS) + 1] * 2
    assert "| rto_alone |" in capsys.readouterr().out
    assert page.read_text().endswith(f"\n{READING}\n\nBy hand.\n")
    assert "# Old" not in page.read_text()


def test_dpo_reads_the_best_and_the_worst_of_each_prompt() -> None:
    ids = torch.tensor([[1, 0], [2, 0], [1, 2], [2, 1], [1, 0], [1, 0]])
    tokens = transformer.token_batch(torch.ones(6, dtype=torch.long), ids, each=3)
    reward = torch.tensor([0.0, 2.0, -1.0, 1.0, 1.0, 1.0])
    batch = reward_aware.best_and_worst(ScoredBatch(tokens, {Role.REWARD: reward}))
    assert batch[Role.REWARD].tolist() == [2, -1]
    assert batch.tokens.response_ids.tolist() == [[2, 0], [1, 2]]


def test_scores_at_one_kl_are_interpolated_from_the_start() -> None:
    endings = np.array([[[0.4, 4.0, 9.0], [0.2, 1.0, 9.0]], [[0.3, 2.0, 9.0], [0.1, 1.0, 9.0]]])
    assert reward_aware.at_kl(endings, 0.5).tolist() == pytest.approx([0.1, 0.05])
    assert reward_aware.at_kl(endings, 2.5).tolist() == pytest.approx([0.3, 0.3])


def test_the_reward_aware_study_writes_its_page(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--seeds", "2", "--out", str(tmp_path)])
    reward_aware.main()
    found = json.loads((tmp_path / "reward_aware.json").read_text())
    assert [block["arms"][0]["arm"] for block in found["blocks"].values()] == [*["dpo"] * 3, "rloo"]
    assert all(len(block["arms"]) == 4 for block in found["blocks"].values())
    assert capsys.readouterr().out.count("| sqloo |") == 4
