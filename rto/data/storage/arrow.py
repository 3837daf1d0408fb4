"""Rows in Arrow files on disk, which are mapped into memory and decoded row by row."""

from __future__ import annotations

import bisect
import itertools
import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BATCH = 1000
"""Rows that are in Python at a time while a file is written."""

T_co = TypeVar("T_co", covariant=True)


def cache_home(cache_dir: str | None) -> Path:
    """``data.cache_dir``, or rto's folder among the user's caches."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rto"


def write_table(
    rows: Iterable[Mapping[str, object]], schema: pa.Schema, folder: Path, *, batch: int = BATCH
) -> pa.Table:
    """The rows as a table whose columns stay on disk (see ``write_batches``)."""
    left = iter(rows)
    parts = iter(lambda: list(itertools.islice(left, batch)), [])
    return write_batches((pa.RecordBatch.from_pylist(x, schema) for x in parts), schema, folder)


def write_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path) -> pa.Table:
    """The rows of all batches as a table whose columns stay on disk.

    The file loses its name once it is written, so that no other run can take it for its own; its
    space is free again when the table is, however the process ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="rows-", suffix=".arrow") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        return pa.ipc.open_file(pa.memory_map(file.name)).read_all()


def lengths(lists: pa.ChunkedArray) -> np.ndarray:
    """Of each list of a column [N]."""
    return pc.call_function("list_value_length", [lists]).to_numpy()


def flat(lists: pa.ChunkedArray) -> np.ndarray:
    """The values of all lists of a column, end to end."""
    return pc.call_function("list_flatten", [lists]).to_numpy()


class Lazy(Sequence[T_co]):
    """A sequence that makes each item when it is asked for, and keeps none."""

    @abstractmethod
    def item(self, index: int) -> T_co:
        """The item numbered ``index``, from 0."""

    @overload
    def __getitem__(self, index: int) -> T_co: ...

    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...

    def __getitem__(self, index: int | slice) -> T_co | list[T_co]:
        places = range(len(self))[index]
        return self.item(places) if isinstance(places, int) else [self.item(i) for i in places]


class Chained(Lazy[T_co]):
    """Sequences end to end."""

    def __init__(self, *parts: Sequence[T_co]) -> None:
        self.parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, index: int) -> T_co:
        part, place = self.find(index)
        return self.parts[part][place]

    def find(self, index: int) -> tuple[int, int]:
        """The part that holds an item, and where."""
        part = bisect.bisect_right(self._ends, index)
        return part, index - self._ends[part] + len(self.parts[part])
