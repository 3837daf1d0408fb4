from __future__ import annotations

from pathlib import Path

import pytest
import torch
from loaded_models import IDS, causal, scalar
from transformers import AutoConfig, AutoModelForCausalLM

from rto.errors import UserError
from rto.models.load import (
    assert_same_tokenizer,
    load_tokenizer,
    reward_constants,
    set_reward_constants,
)


def test_dropout_is_off(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model_dir)
    config.attention_dropout = 0.5
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    loaded = causal(tmp_path).train()
    assert torch.equal(loaded(IDS).logits, loaded(IDS).logits)


def test_a_head_is_made_only_when_asked(tiny_model_dir: Path) -> None:
    assert scalar(tiny_model_dir, new_head=True).config.num_labels == 1
    with pytest.raises(UserError, match="score.weight: it is not a reward model"):
        scalar(tiny_model_dir, new_head=False)


def test_constants(tiny_reward_dir: Path, tiny_model_dir: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_reward_dir)
    assert reward_constants(config, path="rm") == (0.5, 2.0)
    with pytest.raises(UserError, match=r"rm: config.json has no mean and no std.*rto reward"):
        reward_constants(AutoConfig.from_pretrained(tiny_model_dir), path="rm")
    set_reward_constants(config, mean=0.0, std=0.0)
    with pytest.raises(UserError, match="std 0.0"):
        reward_constants(config, path="rm")
    for value in ("a", float("nan"), True, [1.0]):
        config.update({"mean": value})
        with pytest.raises(
            UserError, match=r"rm: config.json has mean .*: must be a finite number"
        ):
            reward_constants(config, path="rm")


def test_paths_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: neither a directory that exists nor a hub id"):
        load_tokenizer("/nowhere")
    with pytest.raises(UserError, match="no config.json"):
        causal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no model_type"):
        causal(tmp_path)


def test_tokenizers_must_agree(tiny_model_dir: Path, tiny_reward_dir: Path) -> None:
    ours, same = load_tokenizer(str(tiny_model_dir)), load_tokenizer(str(tiny_reward_dir))
    assert_same_tokenizer({"a": ours, "b": same})
    same.add_tokens(["<|reserved_special_token_0|>"])
    assert_same_tokenizer({"a": ours, "b": same})
    same.add_tokens(["new"])
    with pytest.raises(UserError, match="a and b differ: id 65 is token None and 'new'"):
        assert_same_tokenizer({"a": ours, "b": same})
    other = load_tokenizer(str(tiny_reward_dir))
    other.eos_token = "<unk>"
    with pytest.raises(UserError, match="a and b differ: eos_token_id is 2 and 3"):
        assert_same_tokenizer({"a": ours, "b": other}, ends_alike={"b"})
    assert_same_tokenizer({"a": ours, "b": other})


def test_padding_falls_back_to_eos(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_dir))
    assert tokenizer.pad_token_id == 0
    tokenizer.pad_token = None
    AutoConfig.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id == 2
