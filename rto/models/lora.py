"""What training asks of peft's LoRA layers. Importing peft takes seconds: it is done where a model
has adapters."""

from __future__ import annotations

from typing import Protocol, cast

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import PreTrainedModel

from rto.sections.runtime import Lora


def adapted(
    model: PreTrainedModel, lora: Lora, *, targets: str | list[str], task: str
) -> PeftModel:
    """The model with new adapters on its modules ``targets``."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type=task,
    )
    made = get_peft_model(model, config)
    assert isinstance(made, PeftModel)
    return made


def without_adapter(module: nn.Module) -> nn.Module:
    """The layer below an adapter, where ``module`` is one."""
    return module.base_layer if isinstance(module, LoraLayer) else module


class HasDelta(Protocol):
    """Any of peft's LoRA layers; their base class does not say what they share."""

    def get_delta_weight(self, adapter: str) -> Tensor: ...


class Adapters:
    """The LoRA layers of a model, by the layer that each of them is around."""

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self._around = {layer.get_base_layer(): layer for layer in layers}

    def parameters(self, base: nn.Module) -> list[nn.Parameter]:
        """Those of the adapter around ``base``; none where there is no adapter."""
        layer = self._around.get(base)
        return list(layer.parameters()) if isinstance(layer, nn.Module) else []

    def merged(self, base: nn.Module) -> Tensor:
        """Its weight W, of few bits made whole, as W + scaling B A where an adapter is around it.

        The sum is in fp32; the result has W's dtype.
        """
        weight = dequantize_module_weight(base)
        layer = self._around.get(base)
        if layer is None:
            return weight
        full = weight.float()
        for name in layer.active_adapters:
            full = full + cast(HasDelta, layer).get_delta_weight(name).float()
        return full.to(weight.dtype)
