"""Read the rollouts of a run: a Parquet file per iteration, gzipped JSON lines of earlier runs."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rto.errors import UserError, foreign

if TYPE_CHECKING:
    import pyarrow as pa

UNPACKED = 256 * 2**20
"""Bytes that are unpacked of a file of JSON lines, and of each group of a Parquet file's rows."""
BATCH = 64
"""Rows of a Parquet file that are Python objects at a time."""
ROW = (
    *("prompt_id", "sample_index", "policy_version", "seed", "finished", "prompt", "response"),
    *("response_ids", "sampler_logprobs"),
)
"""Columns that are no scores; files of earlier runs lack the last one."""
_NAME = re.compile(r"iter_(\d{6,})\.(?:jsonl\.gz|parquet)")
_TOKENS = "_tokens"
_DECIMALS = 4


def find_rollouts(run: Path) -> dict[int, Path]:
    """Iteration -> file of a run folder, in order; of two files of one iteration the Parquet file,
    which a run writes that goes on with one of an earlier version."""
    named = [(_NAME.fullmatch(path.name), path) for path in sorted((run / "rollouts").glob("*"))]
    found = {int(name[1]): path for name, path in named if name and path.is_file()}
    return dict(sorted(found.items()))


def read_rollouts(path: Path) -> Iterator[dict[str, Any]]:
    """A row per response: what was sampled, and ``scores``: by role a number, or the ``tokens``'
    numbers and, of log-probs, their ``sum``.

    Raises:
        UserError: the file is damaged, or too large to unpack.
    """
    rows = _of_parquet(path) if path.suffix == ".parquet" else _of_json_lines(path)
    with foreign(f"{path}: not a file of rollouts", "remove the file"):
        yield from rows


def _of_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rb") as file:
        left = UNPACKED
        while line := file.readline(left + 1):
            left -= len(line)
            if left < 0:
                raise _too_large(path)
            yield json.loads(line)


def _of_parquet(path: Path) -> Iterator[dict[str, object]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
        if any(group.total_byte_size > UNPACKED for group in groups):
            raise _too_large(path)
        for batch in file.iter_batches(BATCH):
            columns = [_values(column) for column in batch.columns]
            for row in zip(*columns, strict=True):
                yield _with_scores(dict(zip(batch.schema.names, row, strict=True)))


def _too_large(path: Path) -> UserError:
    return UserError(f"{path}: longer than {UNPACKED} bytes unpacked: remove the file")


def _values(column: pa.Array) -> list[object]:
    """A column's cells, numbers of tokens to the decimals that they were rounded to."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ListArray) and pa.types.is_floating(column.type.value_type):
        numbers = column.values.cast(pa.float64())
        numbers = pc.call_function("round", [numbers], pc.RoundOptions(_DECIMALS))
        column = pa.ListArray.from_arrays(column.offsets, numbers)
    return column.to_pylist()


def _with_scores(cells: Mapping[str, object]) -> dict[str, object]:
    row = {name: cell for name, cell in cells.items() if name in ROW}
    per_token: dict[str, dict[str, object]] = {}
    whole: dict[str, object] = {}
    for name in [name for name in cells if name not in ROW]:
        if name.endswith(_TOKENS):
            per_token.setdefault(name.removesuffix(_TOKENS), {})["tokens"] = cells[name]
        elif f"{name}{_TOKENS}" in cells:
            per_token.setdefault(name, {})["sum"] = cells[name]
        else:
            whole[name] = cells[name]
    return {**row, "scores": per_token | whole}
