"""Bring the files of a model to this machine before processes that load it are waited for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

from rto.errors import UserError, foreign
from rto.models.source import CONFIG, INDEX, cached, reading, source, weight_file

SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Endings of configurations, tokenizers and chat templates."""
WEIGHTS = (".safetensors", ".bin")
"""Endings of weights: a model that has the first is not read from the second."""
TEMPLATES = "additional_chat_templates/"
GB = 10**9


def bring(path: str, say: Callable[[str], None]) -> None:
    """Download what this machine's cache lacks of a hub id; look whether a directory is whole.

    ``say`` hears of each download, and how far it is. Where the hub is not to be reached, or
    HF_HUB_OFFLINE is set, the cache has to hold the model.

    Raises:
        UserError: it is not to be had, or a part of its weights is missing.
    """
    with reading(path):
        online = not Path(path).is_dir() and not source(path)["local_files_only"]
    if online:
        with foreign(
            f"{path}: cannot be downloaded",
            "check the connection, the space in the hub's cache (HF_HOME), and `hf auth login`",
        ):
            _download(path, say)
    lost = missing(path)
    if lost:
        remedy = "complete it" if Path(path).is_dir() else "download it first, or go online"
        raise UserError(f"{path}: {', '.join(lost[:3])} is not here: {remedy}")


def _download(path: str, say: Callable[[str], None]) -> None:
    info = HfApi().model_info(path, files_metadata=True)
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
    left = [
        name for name in needed(sizes)
        if not isinstance(try_to_load_from_cache(path, name, revision=info.sha), str)
    ]  # fmt: skip
    whole, done = sum(sizes[name] for name in left), 0
    for name in left:
        say(f"downloading {path}: {done / GB:.1f} of {whole / GB:.1f} GB")
        # By the branch's name, as loading asks for it: with a commit the cache would not know it.
        hf_hub_download(path, name)
        done += sizes[name]


def needed(names: Iterable[str]) -> list[str]:
    """Of a repository's files, those that transformers and vLLM load, weights last."""
    top = [name for name in names if "/" not in name or name.startswith(TEMPLATES)]
    weights = ([name for name in top if name.endswith(ending)] for ending in WEIGHTS)
    small = sorted(name for name in top if name.endswith(SMALL))
    return small + sorted(next(filter(None, weights), []))


def missing(path: str) -> list[str]:
    """Files without which a model does not load, by name: the parts that its index lists."""
    weights = weight_file(path)
    if weights is None:
        return ["its weights"]
    names = [CONFIG]
    if weights.name.endswith(INDEX):
        with foreign(f"{weights}: cannot read it", "download the model again"):
            names += sorted(
                set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values())
            )
    return [name for name in names if not _is_here(path, name)]


def _is_here(path: str, name: str) -> bool:
    return (Path(path) / name).is_file() if Path(path).is_dir() else cached(path, name) is not None
