"""Saved models that ``from_pretrained`` and vLLM load."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rto.models.load import SCALE


def save_pretrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, Tensor],
    directory: str | Path,
) -> None:
    """Write weights, config and tokenizer.

    ``weights`` are whole tensors under ``model``'s own names, adapters merged, 4-bit weights
    restored: the model's parameters may be partitioned (ZeRO-3), so none is read from it.
    """
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    weights = _with_own_head(config, weights)
    with torch.device("meta"):
        skeleton: Any = type(model)(config)
    skeleton.to(dtype=next(x.dtype for x in weights.values() if x.is_floating_point()))
    if model.can_generate():
        skeleton.generation_config = model.generation_config
    skeleton.save_pretrained(directory, state_dict=weights)
    tokenizer.save_pretrained(directory)
    follow_umask(Path(directory))


def follow_umask(directory: Path) -> None:
    """Give the files the rights that the user's umask leaves: safetensors writes them for the
    owner alone."""
    umask = os.umask(0o077)
    os.umask(umask)
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def _with_own_head(config: PreTrainedConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flan-T5 as its first publishers wrote it: no tied embeddings, which is how a reader knows
    that the decoder's states are not scaled, and so a head of its own in the file."""
    own = dict(weights)
    if SCALE in vars(config) and "shared.weight" in own:
        config.tie_word_embeddings = vars(config)[SCALE]
        if not config.tie_word_embeddings:
            own.setdefault("lm_head.weight", own["shared.weight"].clone())
    return own
