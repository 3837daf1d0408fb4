"""A run folder as plain values. What a run has not written is absent here, never made up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rto.errors import UserError

MARKS = ("config.yaml", "metrics.jsonl")
"""A folder with one of these is a run folder."""


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    ``config`` is flat: dotted name -> value as text. ``metrics`` has one mapping per iteration,
    in order, with ``iteration`` and ``time`` (seconds since 1970). ``about`` is ``run.json``:
    command, method, status, data accounting and closing figures; empty for a folder without it.
    """

    name: str
    path: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, float]] = ()
    missing: tuple[str, ...] = ()
    """What could not be read, one sentence each."""

    @property
    def kind(self) -> str:
        """The method; of a folder without ``run.json``, told by config and names of metrics."""
        if "method" in self.about:
            return str(self.about["method"])
        areas = {key.split("/")[0] for row in self.metrics for key in row}
        if "sft" in areas:
            return "sft"
        if "reward_model" in areas:
            return "reward"
        return self.config.get("preference.loss" if "preference" in areas else "algo.name", "")

    @property
    def is_online(self) -> bool:
        return any("response/num" in row for row in self.metrics)

    @property
    def keys(self) -> list[str]:
        """Names of the metrics, in the order in which they first appear."""
        found = {key: None for row in self.metrics for key in row}
        return [key for key in found if "/" in key]

    def column(self, key: str) -> tuple[list[float], list[float]]:
        """(iterations, counted from 1; values) of one metric, where it was logged."""
        rows = [row for row in self.metrics if key in row]
        return [row["iteration"] + 1 for row in rows], [row[key] for row in rows]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders that the paths name; a folder of run folders stands for them, oldest first.

    Raises:
        UserError: a path is neither, or not there.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"run folder {path}: no such folder: name one that holds config.yaml")
        inside = [path] if is_run(path) else sorted(filter(is_run, path.iterdir()), key=_began)
        if not inside:
            raise UserError(
                f"{path} is no run folder and holds none: name one with config.yaml or "
                "metrics.jsonl"
            )
        found |= dict.fromkeys(run.resolve() for run in inside)
    return list(found)


def is_run(path: Path) -> bool:
    return any((path / mark).is_file() for mark in MARKS)


def _began(path: Path) -> float:
    return min((path / mark).stat().st_mtime for mark in MARKS if (path / mark).is_file())


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Every run, under the shortest name that tells it from the others."""
    return [read_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def read_run(path: Path, name: str) -> Run:
    """
    Raises:
        UserError: a file is there and is not what a run writes: file, line, remedy.
    """
    missing = [
        f"{mark} is missing: {without}"
        for mark, without in (
            ("config.yaml", "no settings are shown"),
            ("versions.json", "no versions are shown"),
            ("metrics.jsonl", "there are no curves"),
        )
        if not (path / mark).is_file()
    ]
    metrics, cut = read_metrics(path / "metrics.jsonl")
    if cut:
        missing.append("metrics.jsonl: the last line was cut off, as a killed run leaves it")
    return Run(
        name=name,
        path=path,
        about=read_json(path / "run.json"),
        config=read_config(path / "config.yaml"),
        versions={key: str(value) for key, value in read_json(path / "versions.json").items()},
        metrics=metrics,
        missing=tuple(missing),
    )


def read_metrics(path: Path) -> tuple[list[dict[str, float]], bool]:
    """The rows of a metrics file, and whether a cut last line was left out. No file, no rows."""
    rows: list[dict[str, float]] = []
    for number, line in _numbered(path):
        if not line.endswith("\n"):
            return rows, True
        row = _parse(line, f"{path}:{number}")
        bad = [key for key, value in row.items() if not _is_number(value)]
        if bad or "iteration" not in row:
            named = bad[0] if bad else "iteration"
            raise UserError(
                f"{path}:{number}: {named} is {row.get(named)!r}, not a finite number: "
                "correct or remove the line"
            )
        rows.append(row)
    return rows, False


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file."""
    return _parse(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}


def read_config(path: Path) -> dict[str, str]:
    """Settings by dotted name, values as text."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path}: not YAML ({said}): correct or remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a mapping of settings: correct or remove it")
    return dict(flat(content))


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as text) of every leaf; a list is one leaf."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from enumerate(file, start=1)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}): correct or remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: {type(content).__name__} instead of an object: remove it")
    return content
