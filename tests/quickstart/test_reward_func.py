"""The gold reward as a reward source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rto.quickstart.data import ToyPaths, write_task
from rto.quickstart.gold import gold_reward
from rto.quickstart.reward_func import reward_func
from rto.quickstart.tokenizer import build_tokenizer
from rto.quickstart.toy import parse_prompt


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(directory: Path, seed: int) -> ToyPaths:
    return write_task(directory, seed=seed, num_sft=60, num_pairs=400, num_prompts=40, num_eval=20)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ToyPaths:
    return write(tmp_path_factory.mktemp("task"), seed=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    directory = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


def test_reward_func_reads_whole_conversations(
    tokenizer: PreTrainedTokenizerFast, task: ToyPaths
) -> None:
    row = rows(task.sft)[0]
    turns = [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["response"]},
    ]
    query = str(tokenizer.apply_chat_template(turns, tokenize=False))
    expected = gold_reward(row["prompt"], row["response"])
    assert reward_func([query], [row["prompt"]], [None]) == [pytest.approx(expected)]
    assert parse_prompt(row["prompt"]).prompt == row["prompt"]
