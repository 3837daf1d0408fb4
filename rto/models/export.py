"""Saved models that ``from_pretrained`` and vLLM load: adapters merged, 4-bit bases restored."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rto.models.causal import unwrapped

PEFT_PREFIX = "base_model.model."


def save_pretrained(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    state_dict: Mapping[str, Tensor],
    directory: str | Path,
) -> None:
    """Write weights, config and tokenizer.

    ``state_dict`` holds the whole tensors under ``model``'s own names: the model's parameters
    may be partitioned (ZeRO-3), so none is read from it but the 4-bit base weights.
    """
    base = unwrapped(model)
    weights = merged(model, state_dict) if isinstance(model, PeftModel) else dict(state_dict)
    config = copy.deepcopy(base.config)
    config.__dict__.pop("quantization_config", None)
    dtype = next(x.dtype for x in weights.values() if x.is_floating_point())
    with torch.device("meta"):
        skeleton = type(base)._from_config(config, dtype=dtype)
    if base.can_generate():
        skeleton.generation_config = base.generation_config
    skeleton.save_pretrained(directory, state_dict=weights)
    tokenizer.save_pretrained(directory)


def merged(model: PeftModel, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LoRA folded into the base, W + scaling * B @ A, under the names of the plain model."""
    weights: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if _is_adapter(name) or ".weight." in name:  # the latter: quantisation constants
            continue
        if name.endswith(".weight") and not tensor.is_floating_point():
            module = model.get_submodule(name.removesuffix(".weight"))
            tensor = dequantize_module_weight(module).detach()
        weights[_plain(name)] = tensor
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            target = f"{name.removeprefix(PEFT_PREFIX)}.weight"
            down = state_dict[f"{name}.lora_A.default.weight"].float()
            up = state_dict[f"{name}.lora_B.default.weight"].float()
            delta = module.scaling["default"] * up @ down
            weight = weights[target]
            if (
                isinstance(module, Linear) and module.fan_in_fan_out
            ):  # Conv1D of GPT-2 stores [in, out]
                delta = delta.T
            weights[target] = (weight.float() + delta.to(weight.device)).to(weight.dtype)
    return weights


def _is_adapter(name: str) -> bool:
    return ".lora_" in name or ".original_module." in name


def _plain(name: str) -> str:
    name = name.removeprefix(PEFT_PREFIX)
    return name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
