"""Evaluations that lie beside runs: the quickstart's summary.json, rto compare's compare.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rto.report.collect import Run
from rto.report.files import is_number, read_json

FILES = {"summary.json": "stages", "compare.json": "methods"}
"""File -> its table of figures by policy."""
DEPTH = 3
"""A run's folder, the one it lies in (quickstart), and the next (rto compare)."""


@dataclass(frozen=True)
class Figure:
    """A number, with its 95% interval where the evaluation has one."""

    value: float
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class Evaluation:
    """One file: figures of each policy, and named differences."""

    path: Path
    policies: Mapping[str, Mapping[str, Figure]]
    differences: Mapping[str, Figure]

    @property
    def columns(self) -> list[str]:
        return list({name: None for figures in self.policies.values() for name in figures})

    def span(self, names: Sequence[Figure]) -> tuple[float, float]:
        """The range that holds the figures and their intervals."""
        ends = [end for figure in names for end in (figure.value, *(figure.ci95 or ()))]
        return min(ends), max(ends)


def find_evaluations(runs: Sequence[Run]) -> list[Evaluation]:
    """Every evaluation in the folders of the runs and above, once."""
    folders = [folder for run in runs for folder in [run.path, *run.path.parents][:DEPTH]]
    files = {folder / name: part for folder in folders for name, part in FILES.items()}
    contents = {path: (read_json(path), part) for path, part in files.items()}
    return [
        read_evaluation(path, content, part)
        for path, (content, part) in contents.items()
        if isinstance(content.get(part), Mapping)
    ]


def read_evaluation(path: Path, content: Mapping[str, Any], part: str) -> Evaluation:
    policies = {name: figures(entry) for name, entry in _mapping(content[part]).items()}
    beside = {name: value for name, value in content.items() if is_interval(value)}
    return Evaluation(path, policies, figures({**beside, **_mapping(content.get("differences"))}))


def figures(entry: object) -> dict[str, Figure]:
    """The numbers and intervals among the values; all else is left out."""
    found: dict[str, Figure] = {}
    for name, value in _mapping(entry).items():
        if is_interval(value):
            low, high = value["ci95"]
            found[name] = Figure(float(value["mean"]), (float(low), float(high)))
        elif is_number(value):
            found[name] = Figure(float(value))
    return found


def is_interval(value: object) -> bool:
    if not isinstance(value, Mapping) or not is_number(value.get("mean")):
        return False
    ends = value.get("ci95")
    return isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
