"""The rows of the toy task and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from statistics import mean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rto.errors import UserError
from rto.quickstart.data import ToyPaths, demonstrate, write_task
from rto.quickstart.gold import gold_reward, grammar_faults
from rto.quickstart.reward_func import reward_func
from rto.quickstart.tokenizer import build_base_model, build_tokenizer
from rto.quickstart.toy import VOCABULARY, all_requests, parse_prompt


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


def test_the_base_model_is_a_function_of_its_seed(tmp_path: Path) -> None:
    first, again, other = (
        build_base_model(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, first.state_dict()[name])
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
