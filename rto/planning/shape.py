"""The sizes of a model that decide what it needs: from its config.json, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rto.models.adapters import with_adapters
from rto.models.skeleton import Use, on_meta, wanted
from rto.sections.runtime import Lora


@dataclass(frozen=True)
class ModelShape:
    """Counts and widths of one model; ``params`` are all of them, each tensor once."""

    params: int
    layers: int
    """Of the decoder, or of the encoder where the model has no decoder."""
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    embedding_params: int
    """Of the table that token ids are looked up in: no product is computed with it."""
    tied: bool
    """Whether the head over the vocabulary is that table, so that it is multiplied with too."""
    encoder_layers: int = 0
    largest: int = 0
    """Elements of the largest tensor."""
    page_locked: int = 0
    """Elements of all tensors, each rounded up to a power of two, as torch locks pages."""
    linear: int = 0
    """Elements of the layers' matrices: what 4 bits hold where a base is quantised."""
    head: bool = True
    """Whether it has a head over the vocabulary."""

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of the keys of one token in one layer; the values have as many."""
        return self.kv_heads * self.head_dim


def model_shape(path: str, use: Use) -> ModelShape:
    """The shape of the model at ``path`` as this run uses it, with the head that it then has.

    Raises:
        UserError: no config.json can be read there, or it describes no such model.
    """
    return shape_of(on_meta(path, use), wanted(path, use).config)


def shape_of(model: PreTrainedModel, config: Any) -> ModelShape:
    """The shape of a model, which may be on the meta device, and of its transformers config."""
    sizes = _Sizes(config)
    embeddings = cast(nn.Module, model.get_input_embeddings())
    table = cast(torch.Tensor, embeddings.weight)
    output = model.get_output_embeddings()
    head = None if output is None else cast(torch.Tensor, output.weight)
    parameters = list(model.parameters())
    heads = sizes("num_attention_heads")
    hidden = sizes("hidden_size")
    both = bool(config.is_encoder_decoder)
    layers = sizes("num_hidden_layers")
    encoder = sizes("num_layers", "encoder_layers", default=layers) if both else 0
    decoder = sizes("num_decoder_layers", "decoder_layers", default=layers)
    has_decoder = not both or hasattr(model, "decoder") or hasattr(model, "lm_head")
    return ModelShape(
        params=sum(each.numel() for each in parameters),
        layers=(decoder if both else layers) if has_decoder else 0,
        hidden=hidden,
        heads=heads,
        kv_heads=sizes("num_key_value_heads", default=heads),
        head_dim=sizes("head_dim", default=hidden // heads),
        intermediate=sizes("intermediate_size", "n_inner", "ffn_dim", "d_ff", default=4 * hidden),
        vocab=len(table),
        embedding_params=table.numel(),
        tied=head is table,
        encoder_layers=encoder,
        largest=max(each.numel() for each in parameters),
        page_locked=sum(1 << (each.numel() - 1).bit_length() for each in parameters),
        linear=sum(
            each.weight.numel()
            for each in model.modules()
            if isinstance(each, nn.Linear | Conv1D) and each is not output
        ),
        head=head is not None,
    )


def trained_params(path: str, use: Use, lora: Lora) -> tuple[int, int]:
    """Parameters that get gradients, and the elements of the largest such tensor: of the adapters
    where there are some, counted on the model itself.

    Raises:
        UserError: the adapters' target modules do not fit the model.
    """
    found = wanted(path, use)
    model = on_meta(path, use)
    with torch.device("meta"):
        adapted = with_adapters(model, lora, found.task) if lora.rank else model
    sizes = [each.numel() for each in adapted.parameters() if each.requires_grad]
    return sum(sizes), max(sizes)


@dataclass(frozen=True)
class _Sizes:
    """Whole numbers of a config, under the first of several names that has one."""

    config: Any

    def __call__(self, *names: str, default: int | None = None) -> int:
        for name in names:
            value = getattr(self.config, name) if hasattr(self.config, name) else None
            if isinstance(value, int):
                return value
        if default is None:
            raise AttributeError(f"{type(self.config).__name__} has none of {', '.join(names)}")
        return default
