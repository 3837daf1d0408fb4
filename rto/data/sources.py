"""Rows from a hub id, a local file or a saved dataset, and mixtures of several."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset, DatasetDict, interleave_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from rto.errors import UserError

READ = 64
LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def load_rows(source: str, *, split: str = "train") -> Dataset:
    """The rows of ``source``: a file (also .gz), a directory of ``save_to_disk``, or a hub id."""
    path = Path(source)
    if path.is_dir():
        rows = _from_directory(path, split)
    elif path.is_file():
        rows = _from_file(path)
    elif path.suffix in LOADERS or source.endswith(".gz") or source.startswith(("/", ".", "~")):
        raise UserError(f"{source}: no such file")
    else:
        rows = _from_hub(source, split)
    if len(rows) == 0:
        raise UserError(f"{source}: the dataset is empty")
    return rows


def read_rows(rows: Dataset) -> Iterator[dict[str, Any]]:
    """{column: value} of each row; ``READ`` rows are in Python at a time."""
    names = rows.column_names
    for batch in cast(Iterable[dict[str, list[Any]]], rows.iter(batch_size=READ)):
        for values in zip(*(batch[name] for name in names), strict=True):
            yield dict(zip(names, values, strict=True))


def numbered_rows(
    rows: Dataset, columns: Sequence[str], *, source: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 0, {column: value}) of the columns asked for, all of which must exist."""
    _require_columns(rows, columns, source=source)
    yield from enumerate(read_rows(rows.select_columns(list(columns))))


def _require_columns(rows: Dataset, names: Sequence[str], *, source: str) -> None:
    for name in names:
        if name not in rows.column_names:
            near = difflib.get_close_matches(name, rows.column_names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            have = ", ".join(rows.column_names)
            raise UserError(f"{source}: no column '{name}' (columns: {have}){hint}")


def require_text(value: object, *, source: str, row: int, field: str) -> str:
    """A string with something in it; rows count from 0."""
    if isinstance(value, str) and value.strip():
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        found = "missing"
    elif isinstance(value, str):
        found = "empty"
    else:
        found = f"a {type(value).__name__}, not text"
    raise UserError(f"{source}: row {row}: '{field}' is {found}; repair or drop the row")


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


def _from_directory(path: Path, split: str) -> Dataset:
    if not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        raise UserError(f"{path}: not a saved dataset; give a file, or a save_to_disk directory")
    return _pick(load_from_disk(str(path)), split, str(path))


def _from_file(path: Path) -> Dataset:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in LOADERS:
        known = ", ".join(LOADERS)
        raise UserError(f"{path}: unknown file type '{suffix}' (known: {known}, each also as .gz)")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    try:
        rows = load_dataset(LOADERS[suffix], data_files=str(path), split="train")
    except (DatasetGenerationError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"{path}: cannot read it as {suffix}: {_first_line(cause)}") from error
    assert isinstance(rows, Dataset)
    return rows


def _from_hub(source: str, split: str) -> Dataset:
    try:
        return _pick(load_dataset(source), split, source)
    except (DatasetNotFoundError, OSError) as error:
        raise UserError(
            f"{source}: neither a local path nor a reachable dataset: {_first_line(error)}"
        ) from error


def _pick(loaded: Any, split: str, source: str) -> Dataset:
    if isinstance(loaded, DatasetDict):
        if split not in loaded:
            raise UserError(f"{source}: no split '{split}' (splits: {', '.join(map(str, loaded))})")
        return loaded[split]
    return loaded


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
