"""Read the evaluations beside runs: the quickstart's summary.json, rto compare's compare.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeGuard

from rto.report import curves
from rto.report.collect import RunRecord
from rto.report.files import is_number, read_json

FILES = {"summary.json": "stages", "compare.json": "methods"}
"""File -> its table of figures by policy."""
DISTANCE = "kl"
"""The column that says how far a policy has moved."""
WIDTH, HEIGHT, RIGHT = 560, 280, 100
"""Size of the plot, whose right margin holds the names of policies."""
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


@dataclass(frozen=True)
class Mark:
    """A policy in the plot: its place and the ends of its 95% interval, in pixels."""

    name: str
    x: float
    y: float
    low: float
    high: float
    tip: str


@dataclass(frozen=True)
class Plane:
    """What an evaluation judges by against KL. Ticks are (pixel, label)."""

    judged_by: str
    marks: list[Mark]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def plane(evaluation: Evaluation) -> Plane | None:
    """The first figure with an interval against KL; None where no policy has both."""
    rows = evaluation.policies.values()
    judges = (n for row in rows for n, each in row.items() if each.ci95 and n != DISTANCE)
    judged_by = next(judges, "")
    placed = [
        (name, row[DISTANCE].value, row[judged_by])
        for name, row in evaluation.policies.items()
        if judged_by in row and row[judged_by].ci95 and DISTANCE in row
    ]
    if not placed:
        return None
    x_low, x_high = curves.span([0.0, *(kl for _, kl, _ in placed)], pad=0.04)
    y_low, y_high = curves.span(list(evaluation.span([each for *_, each in placed])), pad=0.06)

    def place_x(x: float) -> float:
        return round(
            curves.LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - RIGHT - curves.LEFT), 1
        )

    def place_y(y: float) -> float:
        bottom = HEIGHT - 2 * curves.BOTTOM
        return round(bottom - (y - y_low) / (y_high - y_low) * (bottom - curves.TOP), 1)

    marks = [
        Mark(
            name=name,
            x=place_x(kl),
            y=place_y(each.value),
            low=place_y(low),
            high=place_y(high),
            tip=f"{name}\nKL\t{kl:.4g}\n{judged_by}\t{each.value:.4g} [{low:.4g}, {high:.4g}]",
        )
        for name, kl, each in placed
        for low, high in [each.ci95 or (each.value, each.value)]
    ]
    return Plane(
        judged_by=judged_by,
        marks=marks,
        x_ticks=[(place_x(x), t) for x, t in curves.labelled(curves.ticks(x_low, x_high, 6))],
        y_ticks=[(place_y(y), t) for y, t in curves.labelled(curves.ticks(y_low, y_high, 5))],
    )


def find_evaluations(runs: Sequence[RunRecord]) -> list[Evaluation]:
    """Every evaluation in the folders of the runs and above, once."""
    folders = [folder for run in runs for folder in [run.path, *run.path.parents][:DEPTH]]
    files = {folder / name: part for folder in folders for name, part in FILES.items()}
    contents = {path: (read_json(path), part) for path, part in files.items()}
    return [
        read_evaluation(path, content, part)
        for path, (content, part) in contents.items()
        if isinstance(content.get(part), Mapping)
    ]


def read_evaluation(path: Path, content: Mapping[str, object], part: str) -> Evaluation:
    policies = {name: figures(entry) for name, entry in _mapping(content[part]).items()}
    beside = {name: value for name, value in content.items() if is_interval(value)}
    return Evaluation(path, policies, figures({**beside, **_mapping(content.get("differences"))}))


class IntervalJson(TypedDict):
    """A mean and its 95% interval, as a file has them."""

    mean: float
    ci95: list[float]


def figures(entry: object) -> dict[str, Figure]:
    """The numbers and intervals among the values; all else is left out."""
    figures: dict[str, Figure] = {}
    for name, value in _mapping(entry).items():
        if is_interval(value):
            low, high = value["ci95"]
            figures[name] = Figure(float(value["mean"]), (float(low), float(high)))
        elif is_number(value):
            figures[name] = Figure(float(value))
    return figures


def is_interval(value: object) -> TypeGuard[IntervalJson]:
    """Whether it is a mean with its interval."""
    if not isinstance(value, Mapping) or not is_number(value.get("mean")):
        return False
    ends = value.get("ci95")
    return isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
