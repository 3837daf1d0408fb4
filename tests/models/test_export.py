"""Exported models load again, with every tensor, their precision and their tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from loaded_models import IDS, causal, scalar
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rto.models.export import save_pretrained
from rto.models.load import (
    load_tokenizer,
    reward_constants,
    set_reward_constants,
)
from rto.models.policy import unwrapped


def test_export_loads_again_with_its_tokenizer(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = causal(tiny_model_dir)
    weights = {name: tensor + 0.1 for name, tensor in model.state_dict().items()}
    save_pretrained(unwrapped(model), load_tokenizer(str(tiny_model_dir)), weights, tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    again, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert load_tokenizer(str(tmp_path)).chat_template
    assert list(tmp_path.glob("*.safetensors"))


def test_export_of_a_scalar_model_with_constants(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = scalar(tiny_model_dir, new_head=True)
    set_reward_constants(model.config, mean=1.5, std=0.25)
    save_pretrained(
        unwrapped(model), load_tokenizer(str(tiny_model_dir)), model.state_dict(), tmp_path
    )
    again, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, atol=1e-4, rtol=1e-4)
    assert reward_constants(AutoConfig.from_pretrained(tmp_path), path="x") == (1.5, 0.25)
    assert again.config.architectures == ["LlamaForSequenceClassification"]


def test_export_keeps_dtype_and_every_tensor(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = causal(tiny_model_dir).bfloat16()
    save_pretrained(
        unwrapped(model), load_tokenizer(str(tiny_model_dir)), model.state_dict(), tmp_path
    )
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert again.dtype == torch.bfloat16
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
