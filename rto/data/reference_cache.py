"""Reference log-probs of stored rows, computed once and kept on disk.

A file belongs to a model's weights, its precision and the token ids of all rows, and so to the
data, the tokenizer, the template and the length limit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rto.data.examples import Example
from rto.errors import UserError
from rto.models.load import load_config

WEIGHTS = ("*.safetensors", "*.bin", "config.json")


def cache_path(
    cache_dir: str | None, *, model: str, precision: str, rows: Sequence[Example]
) -> Path:
    """Where the log-probs of these rows under this model are kept."""
    home = Path(cache_dir or os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    folder = home if cache_dir is not None else home / "rto"
    digest = hashlib.sha256(f"{fingerprint(model)}/{precision}".encode())
    for row in rows:
        sizes = [len(row.prompt_ids), len(row.response_ids)]
        digest.update(np.array([*sizes, *row.prompt_ids, *row.response_ids], np.int64).tobytes())
    return folder / f"reference-{digest.hexdigest()[:32]}.safetensors"


def fingerprint(model: str) -> str:
    """A directory's files with size and time, or the commit that a hub id stands for."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{load_config(model)._commit_hash}"
    files = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return f"{folder.resolve()} {stats}"


def load_logprobs(path: Path, rows: Sequence[Example]) -> list[Tensor] | None:
    """Log-probs [T_i] of each row's response, where the file is there."""
    if not path.exists():
        return None
    try:
        flat = load_file(path)["logprobs"]
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): remove it to compute it again") from error
    return list(flat.split([len(row.response_ids) for row in rows]))


def save_logprobs(path: Path, logprobs: Sequence[Tensor]) -> None:
    """Whole or not at all: another run may look for the file meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"logprobs": torch.cat(list(logprobs))}, draft)
    draft.replace(path)
