"""Read files of rows without guessing the type of any cell.

The values of a .jsonl or .json file are those of its JSON, the cells of a .csv file are text, and
the columns of a .parquet file have the file's types. The rows go to an Arrow file on disk as they
are read. If a column may hold several types, its cells are stored as JSON and come back as values.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, Value

from rto.data.storage.arrow import BATCH, write_batches, write_table
from rto.data.storage.json_values import DECODER, read_values
from rto.errors import UserError, foreign, told

MAX_COLUMNS = 1000
TEXT_BATCH = 100
"""Rows of text that are in Python at a time while they are stored: each may be long."""
TEXTS, VALUES = "csv", "json"
"""Builder names of the data sets whose cells are all texts, and whose cells are any JSON."""

ENCODER = json.JSONEncoder(ensure_ascii=False)
NO_TEXT = {
    b"\xff\xfe\0\0": "UTF-32: save it as UTF-8",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
    b"\0\0\xfe\xff": "UTF-32: save it as UTF-8",
    b"\x1f\x8b": "packed with gzip: unpack it, or name it .gz if it is packed once",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"BZh": "packed with bzip2: unpack it",
    b"\xfd7zXZ\0": "packed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it",
    b"PAR1": "Parquet: name it .parquet",
    b"ARROW1": "an Arrow file: save its rows as .parquet",
}
"""First bytes of files that are no text in UTF-8, and what to do about them."""
NUL = "a NUL byte: is it UTF-16, or cut?"

Row = dict[str, object]


def read_file(path: Path, folder: Path) -> Dataset:
    """The rows of a file; they lie in ``folder``, without a name, while they are in use.

    Raises:
        UserError: whatever is wrong with the file, in one line.
    """
    suffix = file_type(path)
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    problem = f"{path}: cannot read it as {suffix}"
    with foreign(problem):
        if suffix == ".parquet":
            return _from_parquet(path, folder)
        packed = path.suffix.lower() == ".gz"
        with gzip.open(path) if packed else path.open("rb") as raw:
            stream = io.BufferedReader(cast(Any, raw))
            _demand_text(stream.peek(64)[:64], problem)
            table = _store(READERS[suffix](stream, problem), folder, problem)
    info = DatasetInfo(builder_name=TEXTS if suffix == ".csv" else VALUES)
    return Dataset(table, info=info, fingerprint=uuid.uuid4().hex).with_transform(_decoded)


def _demand_text(start: bytes, problem: str) -> None:
    """Refuse, by its first bytes, a file that is no text in UTF-8, whatever it is called."""
    for mark, found in NO_TEXT.items():
        if start.startswith(mark):
            raise UserError(f"{problem}: it is {found}")


def file_type(path: Path) -> str:
    """``.jsonl``, ``.json``, ``.csv`` or ``.parquet``, from the name."""
    packed = path.suffix.lower() == ".gz"
    suffix = (Path(path.stem).suffix if packed else path.suffix).lower()
    if suffix == ".parquet" and packed:
        raise UserError(f"{path}: .parquet is compressed in itself: unpack the .gz with gunzip")
    if suffix not in FILE_TYPES:
        raise UserError(
            f"{path}: unknown file type '{suffix}' (known: {', '.join(READERS)}, each also as "
            ".gz, and .parquet)"
        )
    return suffix


def holds_texts(rows: Dataset) -> bool:
    """Each cell is the text that stands in the file, numbers too."""
    return rows.info.builder_name == TEXTS


def may_hold_lists(rows: Dataset, names: Sequence[str]) -> bool:
    """Some cell of these columns may be a list. Reads no cell into Python."""
    if holds_texts(rows):
        return False
    if rows.info.builder_name == VALUES:
        return any(_some_list(rows.data.column(name)) for name in names)
    return not all(isinstance(rows.features[name], Value) for name in names)


def _some_list(cells: pa.ChunkedArray) -> bool:
    begins = pc.call_function("starts_with", [cells], pc.MatchSubstringOptions("["))
    return bool(pc.call_function("any", [begins]).as_py())


def _from_parquet(path: Path, folder: Path) -> Dataset:
    with pq.ParquetFile(path) as file:
        schema = _plain(file.schema_arrow)
        twice = [name for name, count in Counter(schema.names).items() if count > 1]
        if twice:
            raise UserError(f"{path}: the column {twice[0]!r} stands twice")
        for field in schema:
            with foreign(f"{path}: column {field.name!r}", "drop it, or save it as another type"):
                Features.from_arrow_schema(pa.schema([field]))
        table = write_batches(_batches(file, schema, path), schema, folder)
    return Dataset(table, fingerprint=uuid.uuid4().hex)


def _batches(file: pq.ParquetFile, schema: pa.Schema, path: Path) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in file.iter_batches(BATCH):
        columns = [
            column.cast(kind) for column, kind in zip(batch.columns, schema.types, strict=True)
        ]
        for name, column in zip(schema.names, columns, strict=True):
            _demand_valid(column, start, f"{path}: row {{}}: {name!r}")
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
        start += len(batch)


def _demand_valid(column: pa.Array, start: int, where: str) -> None:
    """Refuse values that are not of the column's type: texts that are not UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if len(column) > 1:
            for number in range(len(column)):
                _demand_valid(column.slice(number, 1), start + number, where)
        raise UserError(f"{where.format(start)}: {told(error)}; save the file again") from error


def _plain(schema: pa.Schema) -> pa.Schema:
    """Texts of a few values are stored by number (pandas' categories): as texts again."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in schema
    ]
    return pa.schema(fields, schema.metadata)


def _json_lines(stream: io.BufferedReader, problem: str) -> Iterator[Row]:
    """One row a line. Lines that hold nothing are passed over."""
    if stream.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _json(stream, problem)
        return
    for number, line in enumerate(stream, start=1):
        where = f"{problem}: line {number}"
        text = _utf8(line, where).removeprefix("\ufeff")
        if not text.strip():
            continue
        if "\0" in text:
            raise UserError(f"{where}: {NUL}")
        try:
            value = DECODER.decode(text)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        yield _row(value, where)


def _json(stream: io.BufferedReader, problem: str) -> Iterator[Row]:
    """The items of one list, or objects that follow each other."""
    number = 0
    if b"\0" in stream.peek(64)[:64]:
        raise UserError(f"{problem}: {NUL}")
    try:
        for value in read_values(io.TextIOWrapper(stream, encoding="utf-8-sig")):
            yield _row(value, f"{problem}: row {number}")
            number += 1
    except UnicodeDecodeError as error:
        raise _no_utf8(error, f"{problem}: row {number} or later") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{problem}: row {number}: {error}") from error


def _csv(stream: io.BufferedReader, problem: str) -> Iterator[Row]:
    """The first line names the columns. Lines that hold nothing are passed over."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(_without_nul(stream, problem), strict=True)
    lines = (cells for cells in reader if cells)
    try:
        names = _header(next(lines, []), problem)
        for cells in lines:
            if len(cells) != len(names):
                raise UserError(
                    f"{problem}: line {reader.line_num}: {len(cells)} cells for {len(names)} "
                    "columns: put a cell that holds commas in double quotes"
                )
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{problem}: line {reader.line_num}: {error}") from error


def _header(names: list[str], problem: str) -> list[str]:
    for name, count in Counter(names).items():
        if not name.strip():
            raise UserError(f"{problem}: line 1: a column has no name")
        if count > 1:
            raise UserError(f"{problem}: line 1: the column {name!r} stands twice")
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise UserError(f"{problem}: line 1: one column {names[0]!r}: separate cells by commas")
    return names


def _without_nul(stream: BinaryIO, problem: str) -> Iterator[str]:
    """The lines as text, their ends as they are."""
    for number, line in enumerate(stream, start=1):
        text = _utf8(line, f"{problem}: line {number}")
        if "\0" in text:
            raise UserError(f"{problem}: line {number}: {NUL}")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _utf8(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _no_utf8(error, where) from error


def _no_utf8(error: UnicodeDecodeError, where: str) -> UserError:
    byte = error.object[error.start]
    return UserError(f"{where}: byte 0x{byte:02x} is not UTF-8: save the file as UTF-8")


def _row(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {json.dumps(value)[:40]} is no row: an object with columns")
    if not value:
        raise UserError(f"{where}: an object without columns is no row")
    return value


def _store(rows: Iterable[Row], folder: Path, problem: str) -> pa.Table:
    """The rows with each cell as JSON, on disk.

    A row with a column that no row before it had begins another part of the table.
    """
    left = enumerate(rows)
    columns: dict[str, None] = {}
    parts: list[pa.Table] = []
    ahead = next(left, None)

    def part() -> Iterator[dict[str, str]]:
        nonlocal ahead
        while ahead is not None and ahead[1].keys() <= columns.keys():
            yield _encoded(*ahead, problem)
            ahead = next(left, None)

    while ahead is not None:
        for name in ahead[1]:
            _demand_whole(name, f"{problem}: row {ahead[0]}: {name!r}")
        columns.update(dict.fromkeys(ahead[1]))
        if len(columns) > MAX_COLUMNS:
            raise UserError(f"{problem}: more than {MAX_COLUMNS} columns: what is its row?")
        schema = pa.schema([(name, pa.large_string()) for name in columns])
        parts.append(write_table(part(), schema, folder, batch=TEXT_BATCH))
    if not parts:
        return pa.table({})
    return pa.concat_tables(parts, promote_options="default")


def _encoded(number: int, row: Row, problem: str) -> dict[str, str]:
    cells = {name: ENCODER.encode(value) for name, value in row.items()}
    for name, cell in cells.items():
        _demand_whole(cell, f"{problem}: row {number}: {name!r}")
    return cells


def _demand_whole(text: str, where: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{where} is no text: half of a surrogate pair; repair or drop the row"
            ) from error


def _decoded(batch: dict[str, list[str | None]]) -> dict[str, list[object]]:
    """Cells that a row does not have are None."""
    return {
        name: [None if cell is None else _value(cell) for cell in cells]
        for name, cells in batch.items()
    }


def _value(cell: str) -> object:
    plain = cell.startswith('"') and "\\" not in cell
    return cell[1:-1] if plain else json.loads(cell)


READERS: dict[str, Callable[[io.BufferedReader, str], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
}
FILE_TYPES = (*READERS, ".parquet")
