"""The rows of the toy task."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import mean

import pytest
from toy_task import rows, write

from rto.errors import UserError
from rto.quickstart.data import ToyPaths, demonstrate, write_task
from rto.quickstart.gold import gold_reward, grammar_faults
from rto.quickstart.toy import all_requests


def test_no_prompt_is_in_two_files(task: ToyPaths) -> None:
    prompts = [
        row["prompt"]
        for path in (task.sft, task.pairs, task.prompts, task.eval_prompts)
        for row in rows(path)
    ]
    assert len(prompts) == len(set(prompts)) == 60 + 400 + 40 + 20


def test_the_task_is_a_function_of_its_seed(task: ToyPaths, tmp_path: Path) -> None:
    again, other = write(tmp_path / "again", seed=0), write(tmp_path / "other", seed=1)
    assert again.pairs.read_bytes() == task.pairs.read_bytes()
    assert other.pairs.read_bytes() != task.pairs.read_bytes()


def test_too_many_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are 30720 in all"):
        write_task(tmp_path, seed=0, num_sft=10**6, num_pairs=0, num_prompts=0, num_eval=0)


def test_demonstrations_are_grammatical_finished_and_middling() -> None:
    rng = Random(0)
    requests = rng.sample(all_requests(), 200)
    written = [(request, demonstrate(request, rng)) for request in requests]
    assert all(grammar_faults(response.split()) == 0 for _, response in written)
    assert all(response.endswith(" .") for _, response in written)
    assert 1 < mean(gold_reward(request.prompt, response) for request, response in written) < 3


def test_pairs_are_noisy_labels_of_the_gold_reward(task: ToyPaths) -> None:
    margins = [
        gold_reward(row["prompt"], row["chosen"]) - gold_reward(row["prompt"], row["rejected"])
        for row in rows(task.pairs)
    ]
    assert 0.75 < mean(margin > 0 for margin in margins) < 0.95
