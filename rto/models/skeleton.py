"""Check a model and count its parameters, from config.json and the headers of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_utils import load_state_dict

from rto.errors import UserError, foreign
from rto.models.adapters import with_adapters
from rto.models.load import (
    SCALE,
    LoadingInfo,
    Wanted,
    check_loaded,
    is_encoder_decoder,
    language_model,
    refuse_quantised,
    scalar_model,
    value_model,
)
from rto.models.rope import check_positions
from rto.models.source import INDEX, cached, find_weights, weight_file
from rto.sections.runtime import Lora

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Use = Literal["policy", "critic", "reward", "new reward"]
"""What a run has a model for; "new reward" gets its head in this run."""


@dataclass(frozen=True)
class Needs:
    """What a run will ask of a model: the token ids of ``tokenizer``; rows of so many tokens, by
    the name of the setting that allows them; adapters, or a 4-bit base."""

    tokenizer: PreTrainedTokenizerBase
    lengths: Mapping[str, int]
    lora: Lora = field(default_factory=Lora)
    load_in_4bit: bool = False


def wanted(path: str, use: Use) -> Wanted:
    if use == "policy":
        return language_model(path)
    if use == "critic":
        new = value_model if is_encoder_decoder(path) else _new_head
        return new(path)
    return scalar_model(path, new_head=use == "new reward")


def on_meta(path: str, use: Use) -> PreTrainedModel:
    """The model as it will be trained or run, without memory: only the headers of its weights tell
    whether it has a head of its own. By its config alone where the weights are not here."""
    found = wanted(path, use)
    return _from_config(found) if find_weights(path) is None else _skeleton(found)


def num_parameters(path: str, use: Use) -> int:
    return sum(p.numel() for p in on_meta(path, use).parameters())


def check_model(path: str, use: Use, needs: Needs) -> None:
    """Refuse a model that could not do what a run wants of it.

    Reads config.json and the headers of the weights. Those of a hub id that are not in the cache
    are not fetched for it: its weights are then checked when they are loaded.

    Raises:
        UserError: one line with the path and the remedy.
    """
    files = wanted(path, use)
    refuse_quantised(files, load_in_4bit=needs.load_in_4bit)
    for name, length in needs.lengths.items():
        check_positions(files.config, path=path, name=name, length=length)
    model = _skeleton(files)
    check_embeddings(model, needs.tokenizer, path=path)
    if needs.lora.rank > 0 and use != "reward":
        with torch.device("meta"):
            with_adapters(model, needs.lora, files.task)


def check_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, path: str
) -> None:
    """Refuse token ids that the model has no embedding of.

    Raises:
        UserError: the tokenizer was given tokens and the model no rows for them.
    """
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, Tensor)
    rows = len(embeddings)
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows)
    if beyond:
        i, token = beyond[0]
        more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        raise UserError(
            f"{path}: token {token!r}{more} of the tokenizer has id {i}, the embedding has {rows} "
            "rows: call model.resize_token_embeddings(len(tokenizer)) and save model and tokenizer "
            "again"
        )


def _new_head(path: str) -> Wanted:
    return scalar_model(path, new_head=True)


def _skeleton(found: Wanted) -> PreTrainedModel:
    weights = weight_file(found.path)
    return _from_config(found) if weights is None else _from_headers(found, weights)


def _from_config(found: Wanted) -> PreTrainedModel:
    with foreign(f"{found.path}: config.json makes no model"), torch.device("meta"):
        model = cast(PreTrainedModel, found.auto.from_config(found.config))
    head = model.get_output_embeddings()
    if vars(found.config).get(SCALE) is False and head is not None:
        # Flan-T5 has a head of its own; transformers 5 reads its config as tied.
        assert isinstance(head.weight, Tensor)
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    return model


def _from_headers(found: Wanted, weights: Path) -> PreTrainedModel:
    """The model as transformers would load it, every tensor on the meta device."""
    tensors: dict[str, Tensor] = {}
    for file in _parts(found.path, weights):
        with foreign(f"{found.path}: {file.name} is damaged", "download or save it again"):
            tensors |= load_state_dict(str(file), map_location="meta")
    if not found.config.to_dict().get("quantization_config"):
        _demand_floats(found.path, tensors)
    model = type(_from_config(found))
    with foreign(f"{found.path}: its weights do not make a {model.__name__}"):
        loaded = model.from_pretrained(
            None,
            config=found.config,
            state_dict=tensors,
            device_map="meta",
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    skeleton, info = cast("tuple[PreTrainedModel, LoadingInfo]", loaded)
    check_loaded(found, skeleton, info)
    skeleton.name_or_path = found.path
    return skeleton


def _demand_floats(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights in whole numbers, or in fewer bits, that config.json says nothing of."""
    for name, tensor in tensors.items():
        if name.endswith("weight") and tensor.dtype not in FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{path}: {name} is stored as {kind}: its weights are quantised; take the model "
                "that it was made from (ds.load_in_4bit quantises at loading)"
            )


def _parts(path: str, weights: Path) -> list[Path]:
    """The files that hold the tensors: ``weights`` itself, or those that it lists."""
    if not weights.name.endswith(INDEX):
        return [weights]
    with foreign(f"{path}: {weights.name} is damaged", "download or save it again"):
        names = sorted(set(json.loads(weights.read_text())["weight_map"].values()))
        local = Path(path).is_dir()
        paths = {name: weights.with_name(name) if local else cached(path, name) for name in names}
    missing = [name for name, file in paths.items() if file is None or not file.is_file()]
    if missing:
        raise UserError(
            f"{path}: {weights.name} lists {len(names)} files of weights and {missing[0]} is not "
            "there: download or save the model again"
        )
    return [file for file in paths.values() if file is not None]
