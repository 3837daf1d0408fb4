"""The toy's tokenizer and untrained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rto.quickstart.data import ToyPaths, write_task
from rto.quickstart.tokenizer import build_base_model, build_tokenizer
from rto.quickstart.toy import VOCABULARY


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(directory: Path, seed: int) -> ToyPaths:
    return write_task(directory, seed=seed, num_sft=60, num_pairs=400, num_prompts=40, num_eval=20)


def chat_ids(
    tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]], *, add_generation_prompt: bool
) -> list[int]:
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return tokenizer(str(text), add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ToyPaths:
    return write(tmp_path_factory.mktemp("task"), seed=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    directory = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


def test_every_word_is_one_token_and_comes_back(tokenizer: PreTrainedTokenizerFast) -> None:
    text = " ".join(VOCABULARY)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(set(ids)) == len(VOCABULARY)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_a_conversation_starts_with_its_generation_prompt(
    tokenizer: PreTrainedTokenizerFast, task: ToyPaths
) -> None:
    row = rows(task.sft)[0]
    user = [{"role": "user", "content": row["prompt"]}]
    whole = [*user, {"role": "assistant", "content": row["response"]}]
    prompt = chat_ids(tokenizer, user, add_generation_prompt=True)
    ids = chat_ids(tokenizer, whole, add_generation_prompt=False)
    assert prompt[0] == tokenizer.bos_token_id
    assert ids[: len(prompt)] == prompt
    assert tokenizer.decode(ids[len(prompt) : -1]) == row["response"]
    assert ids[-1] == tokenizer.eos_token_id


def test_the_base_model_is_a_function_of_its_seed(tmp_path: Path) -> None:
    first, again, other = (
        build_base_model(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, first.state_dict()[name])
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
