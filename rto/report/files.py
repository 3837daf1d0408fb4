"""Read the files of a run folder, which may be cut off or come from somebody else.

Each reader returns values of the right types or ends in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

from rto.errors import UserError, foreign
from rto.secrets import hide, hide_in
from rto.tracking.quiet import escape_control
from rto.yaml_file import read_yaml

MAX_JSON = 4 << 20
"""Bytes of a JSON file."""
MAX_LINE = 1 << 20
"""Bytes of a line of metrics."""
MAX_ROWS = 100_000
"""Of more lines of metrics every n-th is read."""
MAX_KEYS = 300
"""Metrics of a run: a chart each."""
MAX_TEXT = 2000
"""Characters of a name or a value that are shown."""
LARGEST = sys.float_info.max / 1e8
"""Of a metric: the arithmetic of a chart stays within the numbers."""


def read_metrics(path: Path) -> tuple[list[dict[str, float]], list[str]]:
    """The rows of a metrics file, and what a reader should know of them. No file, no rows."""
    if not path.is_file():
        return [], []
    rows: list[dict[str, float]] = []
    keys: set[str] = set()
    with foreign(f"{path}: cannot be read", "correct or remove it"):
        every = -(-_count_lines(path) // MAX_ROWS) or 1
        said = [] if every == 1 else [f"metrics.jsonl is long: of {every} lines one is read"]
        for number, line in _lines(path):
            if not line.endswith("\n"):
                cut = "metrics.jsonl: the last line was cut off, as a killed run leaves it"
                return rows, [*said, cut]
            if (number - 1) % every == 0:
                rows.append(_metrics_row(line, f"{path}:{number}"))
                keys |= rows[-1].keys()
                _require(len(keys) <= MAX_KEYS, f"{path}:{number}: more than {MAX_KEYS} metrics")
    return rows, said


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            _require(len(line) <= MAX_LINE, f"{path}:{number}: longer than {MAX_LINE} bytes")
            yield number, line.decode("utf-8")


def _metrics_row(line: str, where: str) -> dict[str, float]:
    row = parse_json(line, where)
    bad = [key for key, value in row.items() if not is_number(value)]
    if bad or "iteration" not in row:
        named = bad[0] if bad else "iteration"
        shown = escape_control(repr(row.get(named))[:60])
        raise UserError(
            f"{where}: {shown_text(named)[:60]} is {shown}, not a finite number: "
            "correct or remove the line"
        )
    return {hide(shown_text(key)): value for key, value in row.items() if is_number(value)}


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number that a chart can show; a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -LARGEST <= value <= LARGEST


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    with foreign(f"{path}: cannot be read", "correct or remove it"):
        _require(path.stat().st_size <= MAX_JSON, f"{path}: longer than {MAX_JSON} bytes")
        return parse_json(path.read_text(encoding="utf-8"), str(path))


def parse_json(text: str, where: str) -> dict[str, object]:
    with foreign(f"{where}: not JSON", "correct or remove it"):
        content = json.loads(text)
    _require(isinstance(content, dict), f"{where}: {type(content).__name__} instead of an object")
    return content


def read_config(path: Path) -> dict[str, str]:
    """Settings by dotted name, values as text without secrets."""
    if not path.is_file():
        return {}
    content = read_yaml(path)
    _require(isinstance(content, dict), f"{path}: not a mapping of settings")
    return {shown_text(name): shown_text(value) for name, value in flat(hide_in(content))}


def flat(content: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as text) of every leaf; a list is one leaf."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def read_about(path: Path) -> tuple[dict[str, object], list[str]]:
    """``run.json`` as a run writes it, and a sentence on each part that is something else."""
    content, about, odd = read_json(path), dict[str, object](), list[str]()
    for name, value in content.items():
        if name == "pid" or (name == "checkpoint" and value is None):
            continue
        kept = _kept(name, value)
        if kept is None:
            odd.append(f"run.json: {shown_text(name)[:60]} is not what a run writes: left out")
        else:
            about[shown_text(name)] = kept
    return about, odd


def _kept(name: str, value: object) -> object:
    """The value as a run writes it; None if no run would."""
    if name == "data":
        return _data(value)
    if name == "results":
        return _results(value)
    if name == "restarts":
        return _restarts(value)
    if name == "exit_code":
        return value if is_number(value) else None
    return hide(shown_text(value)) if isinstance(value, str) else None


def _data(value: object) -> dict[str, object] | None:
    """What became of the rows: unit, read, used, and counts by reason."""
    if not isinstance(value, dict):
        return None
    unit, filtered = value.get("unit"), value.get("filtered")
    counts = [value.get("read"), value.get("used")]
    if not isinstance(unit, str) or not isinstance(filtered, dict):
        return None
    if not all(type(count) is int and is_number(count) for count in [*counts, *filtered.values()]):
        return None
    reasons = {shown_text(reason): count for reason, count in filtered.items()}
    return {"unit": shown_text(unit), "read": counts[0], "used": counts[1], "filtered": reasons}


def _restarts(value: object) -> list[dict[str, str]] | None:
    """When what was lost, and the checkpoint from which the run went on; oldest first."""
    restarts: list[dict[str, str]] = []
    for each in value if isinstance(value, list) else [None]:
        if not isinstance(each, dict) or set(each) != {"at", "lost", "checkpoint"}:
            return None
        restarts.append({name: hide(shown_text(text)) for name, text in each.items()})
    return restarts


def _results(value: object) -> dict[str, float] | None:
    if not isinstance(value, dict) or not all(map(is_number, value.values())):
        return None
    return {shown_text(name): number for name, number in value.items()}


def shown_text(value: object) -> str:
    """Text of any origin on a page: no control characters, and an end."""
    text = escape_control(str(value)[: MAX_TEXT + 1])
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(f"{message}: correct or remove it")
