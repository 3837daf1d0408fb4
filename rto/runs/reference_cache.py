"""Reference log-probs of stored rows, computed once and kept on disk.

A file belongs to a model's weights, its precision and the token ids of all rows, and so to the
data, the tokenizer, the template and the length limit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rto.data.examples import Example
from rto.data.storage.arrow import Lazy, cache_home
from rto.errors import UserError
from rto.models.load import load_config

WEIGHTS = ("*.safetensors", "*.bin", "config.json")
NAME = "logprobs"


@dataclass(frozen=True, eq=False)
class LogProbs(Lazy[Tensor]):
    """Log-probs [T_i] of each row's response, read from ``file`` when they are asked for: those
    of row i are ``starts[i]`` to ``starts[i + 1]``."""

    file: Any
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def item(self, index: int) -> Tensor:
        return self.file.get_slice(NAME)[int(self.starts[index]) : int(self.starts[index + 1])]


def cache_path(
    cache_dir: str | None, *, model: str, precision: str, rows: Iterable[Example]
) -> Path:
    """Where the log-probs of these rows under this model are kept."""
    digest = hashlib.sha256(f"{fingerprint(model)}/{precision}".encode())
    for row in rows:
        sizes = [len(row.prompt_ids), len(row.response_ids)]
        digest.update(np.array([*sizes, *row.prompt_ids, *row.response_ids], np.int64).tobytes())
    return cache_home(cache_dir) / f"reference-{digest.hexdigest()[:32]}.safetensors"


def fingerprint(model: str) -> str:
    """A directory's files with size and time, or the commit that a hub id stands for."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{load_config(model)._commit_hash}"
    files = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return f"{folder.resolve()} {stats}"


def load_logprobs(path: Path, rows: Sequence[Example]) -> LogProbs:
    """Log-probs of the rows that the file was written for."""
    try:
        file = safe_open(path, "pt")
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): remove it to compute it again") from error
    return LogProbs(file, _starts(rows))


@contextmanager
def saving_logprobs(path: Path, rows: Sequence[Example]) -> Iterator[Callable[[int, Tensor], None]]:
    """A function that writes the log-probs [T_i] of the row with a number, in any order.

    The file appears whole or not at all: another run may look for it meanwhile.
    """
    starts = _starts(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    head = _header(int(starts[-1]))
    try:
        with draft.open("wb") as file:
            file.write(head)

            def write(row: int, logprobs: Tensor) -> None:
                file.seek(len(head) + 4 * int(starts[row]))
                file.write(logprobs.float().numpy().tobytes())

            yield write
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _starts(rows: Sequence[Example]) -> np.ndarray:
    """Where each row's response begins [N + 1] when all are end to end."""
    lengths = np.fromiter((len(row.response_ids) for row in rows), np.int64, len(rows))
    return np.concatenate([[0], lengths.cumsum()])


def _header(size: int) -> bytes:
    """Of a safetensors file that holds one float32 tensor [size]."""
    tensor = {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}
    text = json.dumps({NAME: tensor}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
