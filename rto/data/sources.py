"""Read rows from a hub id, a local file or a saved dataset, and mix several sources."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset, DatasetDict, interleave_datasets, load_dataset, load_from_disk

from rto.data.storage.arrow import cache_home
from rto.data.storage.row_files import FILE_TYPES, read_file
from rto.errors import UserError, foreign, nearest
from rto.sections.data import Data
from rto.text import one_line

READ = 64


def load_rows(source: str, data: Data | None = None, *, split: str = "train") -> Dataset:
    """The rows of ``source``: a file (also .gz), a directory of ``save_to_disk``, or a hub id.

    Of ``data`` are the names of the columns, a hub set's configuration, and where rows are kept.

    Raises:
        UserError: whatever keeps them from being read, in one line that names the source.
    """
    data = data or Data()
    path = Path(os.path.expanduser(source))
    with foreign(f"{source}: cannot read it"):
        if path.is_dir():
            rows = _from_directory(path, split)
        elif path.is_file():
            rows = read_file(path, cache_home(data.cache_dir))
        elif path.exists():
            raise UserError(f"{source}: not a regular file; write its rows to one")
        elif source.lower().endswith((*FILE_TYPES, ".gz")) or source.startswith(("/", ".", "~")):
            raise UserError(f"{source}: no such file")
        else:
            rows = _from_hub(source, split, data.config_name)
        if len(rows) == 0:
            raise UserError(f"{source}: the dataset is empty")
        return _renamed(rows, data.columns, source)


def read_rows(rows: Dataset) -> Iterator[dict[str, object]]:
    """{column: value} of each row; ``READ`` rows are in Python at a time."""
    names = rows.column_names
    for batch in cast(Iterable[dict[str, list[object]]], rows.iter(batch_size=READ)):
        for values in zip(*(batch[name] for name in names), strict=True):
            yield dict(zip(names, values, strict=True))


def numbered_rows(
    rows: Dataset, columns: Sequence[str], *, source: str
) -> Iterator[tuple[int, dict[str, object]]]:
    """(row number from 0, {column: value}) of the columns asked for, all of which must exist."""
    _require_columns(rows, columns, source=source)
    with foreign(f"{source}: cannot read a row"):
        yield from enumerate(read_rows(rows.select_columns(list(columns))))


def _require_columns(rows: Dataset, names: Sequence[str], *, source: str) -> None:
    for name in names:
        if name not in rows.column_names:
            have, hint = (
                ", ".join(rows.column_names),
                nearest(name, rows.column_names, shown="'{}'"),
            )
            advice = f"; {hint}" if hint else ""
            raise UserError(f"{source}: no column '{name}' (columns: {have}){advice}")


def require_text(value: object, *, source: str, row: int, field: str) -> str:
    """A string with something in it; rows count from 0."""
    if isinstance(value, str) and value.strip():
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        problem = "missing"
    elif isinstance(value, str):
        problem = "empty"
    else:
        problem = f"a {type(value).__name__}, not text"
    raise UserError(f"{source}: row {row}: '{field}' is {problem}; repair or drop the row")


def mix(sizes: Sequence[int], *, probs: Sequence[float] | None, seed: int) -> np.ndarray:
    """The order of rows of several parts, numbered as if they were end to end: that one, or drawn
    with weights until each part is used up."""
    if probs is None or len(sizes) == 1:
        return np.arange(sum(sizes))
    if min(probs) < 0 or sum(probs) <= 0:
        raise UserError(f"mixing weights {list(probs)}: must not be negative, nor all 0")
    kept = [(i, p / sum(probs)) for i, p in enumerate(probs) if p > 0]
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    order = interleave_datasets(
        [Dataset.from_dict({"row": numbers[i]}) for i, _ in kept],
        probabilities=[p for _, p in kept],
        seed=seed,
        stopping_strategy="all_exhausted",
    )
    return np.asarray(order.with_format("numpy")[:]["row"])


def label_text(value: object, *, where: str = "a label") -> str | None:
    """A label as a reward function gets it: text unchanged, any other value as JSON.

    Raises:
        UserError: it holds bytes, which are no text and no JSON.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=partial(_as_text, where))
    return _as_text(where, value)


def _as_text(where: str, value: object) -> str:
    if isinstance(value, bytes):
        raise UserError(f"{where} is {value!r:.60}, bytes and not text: save the column as text")
    return str(value)


def _renamed(rows: Dataset, columns: Sequence[str], source: str) -> Dataset:
    """``columns`` are "new=old"; a column that had a new name before makes room for it."""
    pairs = [column.partition("=") for column in columns]
    new = {old: name for name, _, old in pairs}
    _require_columns(rows, list(new), source=source)
    rows = rows.remove_columns([n for n in rows.column_names if n in new.values() and n not in new])
    return rows.rename_columns({old: name for old, name in new.items() if old != name})


def _from_directory(path: Path, split: str) -> Dataset:
    if not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        raise UserError(f"{path}: not a saved dataset; give a file, or a save_to_disk directory")
    return _pick(load_from_disk(str(path)), split, str(path))


def _from_hub(source: str, split: str, config_name: str | None) -> Dataset:
    with foreign(f"{source}: neither a local path nor a reachable dataset"):
        try:
            return _pick(load_dataset(source, config_name), split, source)
        except ValueError as error:
            if isinstance(error, UserError) or "config" not in str(error):
                raise
            said = one_line(str(error), 600)
            raise UserError(f"{source}: {said}; name one with data.config_name") from error


def _pick(loaded: Dataset | DatasetDict, split: str, source: str) -> Dataset:
    """The split, its values as they are stored, whatever format it was saved with (NumPy's)."""
    if isinstance(loaded, DatasetDict):
        if split not in loaded:
            raise UserError(f"{source}: no split '{split}' (splits: {', '.join(map(str, loaded))})")
        loaded = loaded[split]
    return loaded.with_format(None)
