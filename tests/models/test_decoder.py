"""A model whose states of a row are not the row's own is refused when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizers import tiny_config, tiny_tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from rto.errors import UserError
from rto.models import causal, heads
from rto.models.decoder import Decoder
from rto.models.families import load_critic, load_policy
from rto.models.load import load_language_model


class OverTheBatch(nn.Module):
    """Subtracts the mean over all rows, as normalising over the batch does."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Noise(nn.Module):
    """Draws in training mode alone, as the routers of some experts do."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty_like(x).uniform_(0.5, 1.5) if self.training else x


@pytest.mark.parametrize("layer", [OverTheBatch, Noise])
def test_rows_that_depend_on_others_or_on_chance(layer: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(tiny_config())
    Decoder(LlamaForCausalLM(tiny_config()))
    model.model.norm = layer()
    with pytest.raises(UserError, match="model type llama is not supported"):
        Decoder(model)


def test_a_model_that_reads_ahead(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("bert", vocab_size=64, intermediate_size=64, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="model type bert is not supported"):
        load_policy(str(tmp_path), dtype=torch.float32, attn_implementation="sdpa")


def test_routers_make_no_noise(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    more: dict[str, Any] = {"num_key_value_heads": 2, "num_local_experts": 2}
    config = AutoConfig.for_model(
        "mixtral", vocab_size=64, intermediate_size=32, router_jitter_noise=0.5, **shape, **more
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_language_model(str(tmp_path), dtype=torch.float32, attn_implementation="sdpa")
    assert model.config.to_dict()["router_jitter_noise"] == 0.0
    Decoder(model)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("load", [load_policy, load_critic])
def test_a_model_is_tried_on_the_device_that_it_is_loaded_for(
    device: str, load: Any, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    class Trial:
        packs = False

        def __init__(self, model: LlamaForCausalLM) -> None:
            found.extend({parameter.device.type for parameter in model.parameters()})

    monkeypatch.setattr(causal, "Decoder", Trial)
    monkeypatch.setattr(heads, "Decoder", Trial)
    load(
        str(tiny_model_dir),
        dtype=torch.float32,
        attn_implementation="sdpa",
        device=torch.device(device),
    )
    assert found == [device]
