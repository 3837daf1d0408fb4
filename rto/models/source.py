"""Find a model in a directory or on the hub, and name what a folder holds if it is no model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import constants, get_session, try_to_load_from_cache
from transformers import CONFIG_MAPPING

from rto.errors import UserError, foreign
from rto.sections.paths import is_hub_id

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
PATIENCE = 5.0
"""Seconds that the hub has to answer once."""


def reading(path: str) -> foreign:
    """The guard around everything that transformers reads from ``path``.

    Raises:
        UserError: it is neither a saved model's directory nor the id of a model that can be had.
    """
    if Path(path).is_dir():
        _check_folder(path)
        return foreign(f"{path}: cannot load this directory", "save or download the model again")
    if not is_hub_id(path):
        raise UserError(f"{path}: neither a directory that exists nor a hub id")
    problem = "" if constants.HF_HUB_OFFLINE else hub_problem()
    if (problem or constants.HF_HUB_OFFLINE) and cached(path, CONFIG) is None:
        why = problem or "HF_HUB_OFFLINE is set"
        raise UserError(
            f"{path}: no such directory here, and as a hub id not in this machine's cache and "
            f"not to be had now ({why}): give a directory, or download it first"
        )
    return foreign(f"{path}: cannot load this hub id (no such directory here)")


def source(path: str) -> dict[str, bool]:
    """How ``from_pretrained`` is to read ``path``: never code of its own, and nothing that waits
    for a hub that does not answer."""
    local = not Path(path).is_dir() and bool(constants.HF_HUB_OFFLINE or hub_problem())
    return {"trust_remote_code": False, "local_files_only": local}


@functools.cache
def hub_problem() -> str:
    """Why the hub cannot be reached, asked once in a process; empty where it answers.

    Left to themselves, its readers try each file again and again for a minute and a half.
    """
    try:
        with foreign(constants.ENDPOINT):
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except UserError as error:
        return str(error)
    return ""


def cached(path: str, name: str) -> Path | None:
    """A file of a hub model that lies in this machine's cache."""
    path_in_cache = try_to_load_from_cache(path, name)
    return Path(path_in_cache) if isinstance(path_in_cache, str) else None


NOT_READ = (".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth")
"""Weights of other kinds than those that are read."""


def weight_file(path: str) -> Path | None:
    """The weights of a model, or the index of their parts; None for a hub id without any here.

    Raises:
        UserError: a directory without weights.
    """
    found = find_weights(path)
    if found is not None or not Path(path).is_dir():
        return found
    others = sorted(each.name for each in Path(path).iterdir() if each.suffix in NOT_READ)
    has = f" ({others[0]} is of a kind that is not read)" if others else ""
    raise UserError(
        f"{path}: no weights in this directory{has}: it needs {WEIGHTS[0]}, or {WEIGHTS[0]}{INDEX} "
        "and its parts"
    )


def find_weights(path: str) -> Path | None:
    """The weights of a model, or the index of their parts; None where there are none here."""
    names = [f"{name}{end}" for name in WEIGHTS for end in ("", INDEX)]
    if not Path(path).is_dir():
        return next((found for name in names if (found := cached(path, name))), None)
    return next((Path(path) / name for name in names if (Path(path) / name).is_file()), None)


def check_type(path: str, written: object) -> None:
    """Refuse, by its config.json, an architecture that only code from its folder could run."""
    if not isinstance(written, Mapping):
        raise UserError(f"{path}: config.json is a {type(written).__name__}, not an object")
    kind = written.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return
    if written.get("auto_map"):
        raise UserError(
            f"{path}: config.json has code of its own for model type {kind} (auto_map), and a "
            "model's code is never run: take an architecture that transformers has"
        )
    if kind is None:
        raise UserError(f"{path}: config.json has no model_type: not a saved language model")
    raise UserError(
        f"{path}: config.json has model_type {kind!r}, which this transformers does not know: take "
        "another model, or a newer transformers"
    )


def _check_folder(path: str) -> None:
    folder = Path(path)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{path}: adapters (PEFT) and not a whole model: merge them into their base "
            "(PeftModel.merge_and_unload), save that with its tokenizer, and give its folder"
        )
    if (folder / CONFIG).is_file():
        return
    inside = sorted(each.parent.name for each in folder.glob(f"*/{CONFIG}"))
    if any(folder.glob("*.gguf")):
        remedy = ": GGUF files are not read, take the model that they were made from"
    elif inside:
        remedy = f", but in {', '.join(inside[:3])} inside it: give that folder"
    else:
        remedy = ": not a saved model"
    raise UserError(f"{path}: no {CONFIG} in this directory{remedy}")
