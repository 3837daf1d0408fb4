"""The toy's tokenizer and untrained model."""

from __future__ import annotations

from pathlib import Path

import torch
from toy_task import rows
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rto.quickstart.data import ToyPaths
from rto.quickstart.tokenizer import build_base_model
from rto.quickstart.toy import VOCABULARY


def chat_ids(
    tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]], *, add_generation_prompt: bool
) -> list[int]:
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return tokenizer(str(text), add_special_tokens=False)["input_ids"]


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
