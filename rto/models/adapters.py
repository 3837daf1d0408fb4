"""Add LoRA adapters to a model (peft) and resolve the names of their target modules."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rto.errors import UserError, foreign
from rto.sections.runtime import Lora

if TYPE_CHECKING:
    from peft import PeftModel

NAMES = re.compile(r"[\w.,\s]+")


def with_adapters(model: PreTrainedModel, lora: Lora, task: str) -> PeftModel:
    """New adapters on the modules that ``lora.target_modules`` names.

    Raises:
        UserError: a name matches no module, or one that takes no adapter.
    """
    path, setting = model.name_or_path, f"ds.lora.target_modules {lora.target_modules}"
    targets = _target_modules(lora.target_modules)
    names = [name for name, _ in model.named_modules()]
    for target in [] if isinstance(targets, str) else targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(
                f"{setting}: no module of {path} is called {target!r}; {_linears(model)}"
            )
    from rto.models.lora import adapted

    with foreign(f"{setting} does not fit {path}", _linears(model)):
        return adapted(model, lora, targets=targets, task=task)


def _linears(model: PreTrainedModel) -> str:
    """Which names there are to choose from."""
    targets = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }
    return f"use all-linear, or some of {some(targets, limit=12)}"


def _target_modules(names: str) -> str | list[str]:
    """A regular expression, all-linear, or names with commas between them."""
    if names == "all-linear" or not NAMES.fullmatch(names):
        return names
    return [name.strip() for name in names.split(",") if name.strip()]


def some(names: Collection[str], limit: int = 4) -> str:
    """Names for one line: the first few, and how many more there are."""
    first = ", ".join(sorted(names)[:limit])
    return first if len(names) <= limit else f"{first} and {len(names) - limit} more"
