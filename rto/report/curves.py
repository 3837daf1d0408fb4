"""Geometry of the charts: metrics as curves, and the stages of an iteration as bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rto.report.collect import RunRecord
from rto.report.meanings import meaning

WIDTH, HEIGHT = 372, 188
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 22
STAGES = ("generate", "score", "update", "sync", "evaluate", "other")

PROGRESS = (
    "reward/mean",
    "kl/sequence",
    "response/length",
    "policy/entropy",
    "response/surprisal",
    "response/truncated_share",
    "dpo/sum_mean",
    "policy/log_ratio",
    "reward/correlation",
    "preference/accuracy",
    "preference/margin",
    "reward_model/accuracy",
    "reward_model/margin",
    "eval/accuracy",
    "eval/margin",
    "eval/nll_per_token",
    "eval/reward_correlation",
    "eval/row_correlation",
)
GAP = (
    "sampler/abs_diff_mean",
    "sampler/abs_diff_max",
    "sync/probe_mean_abs_diff",
    "sync/probe_max_abs_diff",
)


@dataclass(frozen=True)
class Line:
    """One run's values of a metric: ``x`` iterations, ``y`` values, and their place in pixels."""

    run: int
    x: list[float]
    y: list[float]
    points: str


@dataclass(frozen=True)
class Chart:
    """One metric of all runs. Ranges are those of the plot's edges, ticks (pixel, label)."""

    key: str
    meaning: str
    lines: list[Line]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    binned: int
    """Iterations that a point is the mean of, at most."""


@dataclass(frozen=True)
class ChartSection:
    title: str
    charts: list[Chart]
    folded: bool = False


def sections(runs: Sequence[RunRecord], *, points: int) -> list[ChartSection]:
    """Every metric of the runs once, by subject; ``points`` bounds the points of a line."""
    keys = list({key: None for run in runs for key in run.keys})
    parts: dict[str, list[str]] = {
        "Progress": [key for key in PROGRESS if key in keys],
        "Losses": [key for key in keys if "loss" in key.split("/")[1]],
        "Engine against trainer": [key for key in GAP if key in keys],
    }
    shown = {key for part in parts.values() for key in part}
    parts["Throughput"] = [key for key in keys if key.startswith("rate/")]
    parts["All other metrics"] = [
        key for key in keys if key not in shown and key.split("/")[0] not in ("time", "rate")
    ]
    return [
        ChartSection(title, [chart(runs, key, points=points) for key in part], index > 2)
        for index, (title, part) in enumerate(parts.items())
        if part
    ]


def chart(runs: Sequence[RunRecord], key: str, *, points: int) -> Chart:
    """The metric ``key`` of the runs that have it."""
    columns = {i: run.column(key) for i, run in enumerate(runs) if run.column(key)[0]}
    thinned = {i: thin(x, y, points) for i, (x, y) in columns.items()}
    x_low, x_high = span([x for xs, _ in thinned.values() for x in xs], pad=0)
    y_low, y_high = span([y for _, ys in thinned.values() for y in ys], pad=0.06)

    def place_x(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def place_y(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    lines = [
        Line(
            i,
            xs,
            ys,
            " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in zip(xs, ys, strict=True)),
        )
        for i, (xs, ys) in thinned.items()
    ]
    whole = [tick for tick in ticks(x_low, x_high, 5) if tick == round(tick)]
    return Chart(
        key=key,
        meaning=meaning(key),
        lines=lines,
        x_range=(x_low, x_high),
        y_range=(y_low, y_high),
        x_ticks=[(round(place_x(tick), 1), f"{tick:,.0f}") for tick in whole],
        y_ticks=[
            (round(place_y(tick), 1), label) for tick, label in labelled(ticks(y_low, y_high, 4))
        ],
        binned=max(math.ceil(len(x) / points) for x, _ in columns.values()),
    )


SHARES = [(LEFT + share / 4 * (WIDTH - LEFT - RIGHT), f"{share / 4:.0%}") for share in range(5)]
"""Ticks of a chart whose x axis is the share of each run."""


def thin(x: Sequence[float], y: Sequence[float], points: int) -> tuple[list[float], list[float]]:
    """At most ``points`` points, each the mean of as many neighbours; few stay as they are."""
    size = max(1, math.ceil(len(x) / points))
    cuts = range(0, len(x), size)
    return [_mean(x[i : i + size]) for i in cuts], [_mean(y[i : i + size]) for i in cuts]


def _mean(values: Sequence[float]) -> float:
    return float(f"{math.fsum(values) / len(values):.6g}")


def span(values: Sequence[float], *, pad: float) -> tuple[float, float]:
    """The range of the values with ``pad`` times its width on both sides; never empty."""
    low, high = min(values), max(values)
    if high - low < TINY:
        room = abs(low) / 2
        return (low - room, high + room) if room > TINY else (low, low + 1.0)
    room = pad * (high - low)
    return low - room, high + room


TINY = 1e-300
"""A difference below it has no parts: quotients of such numbers are 0 or wrong."""


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def labelled(values: Sequence[float]) -> list[tuple[float, str]]:
    """Tick values and labels; the labels are as short as possible and differ from each other."""
    largest = max((abs(value) for value in values), default=0.0)
    if len(values) > 1 and 1e-3 <= largest < 1e5:
        step = min(b - a for a, b in pairwise(values))
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(value, f"{value + 0.0:,.{digits}f}") for value in values]
    return [(value, f"{value:.3g}") for value in values]


@dataclass(frozen=True)
class Bar:
    """The iterations ``first`` to ``last``: mean seconds per stage, stacked in pixels."""

    first: int
    last: int
    left: float
    width: float
    parts: list[tuple[str, float, float, float]]
    """(stage, top, height, seconds)."""

    @property
    def tip(self) -> str:
        where = f"{self.first}" if self.first == self.last else f"{self.first}–{self.last}"
        return "\n".join([where, *(f"{stage}\t{s:.3g} s" for stage, _, _, s in self.parts)])


@dataclass(frozen=True)
class Timeline:
    """Where the time of one run went. ``totals`` are seconds over the run, by stage."""

    run: int
    width: int
    height: int
    bars: list[Bar]
    ticks: list[tuple[float, str]]
    totals: dict[str, float]

    @property
    def seconds(self) -> float:
        return math.fsum(self.totals.values())


def timeline(
    index: int, run: RunRecord, *, bars: int = 100, width: int = 1100, height: int = 130
) -> Timeline | None:
    """Seconds per stage of each iteration, stacked; None for a run without iterations."""
    rows = [stage_seconds(row) for row in run.metrics if "time/iteration" in row]
    if not rows:
        return None
    numbers = [int(row["iteration"]) + 1 for row in run.metrics if "time/iteration" in row]
    size = math.ceil(len(rows) / bars)
    groups = [range(i, min(i + size, len(rows))) for i in range(0, len(rows), size)]
    means = [{s: math.fsum(rows[i][s] for i in g) / len(g) for s in STAGES} for g in groups]
    top = max(math.fsum(mean.values()) for mean in means)
    top = top if top > TINY else 1.0
    plot_width, plot_height = width - LEFT - RIGHT, height - TOP - BOTTOM
    slot = plot_width / len(groups)
    stages = [
        Bar(
            first=numbers[group[0]],
            last=numbers[group[-1]],
            left=round(LEFT + i * slot, 2),
            width=round(max(slot - min(2.0, slot / 5), 0.5), 2),
            parts=_stacked(mean, plot_height / top, height - BOTTOM),
        )
        for i, (group, mean) in enumerate(zip(groups, means, strict=True))
    ]
    marks = labelled(ticks(0, top, 3))
    return Timeline(
        run=index,
        width=width,
        height=height,
        bars=stages,
        ticks=[
            (round(height - BOTTOM - tick / top * plot_height, 1), text) for tick, text in marks
        ],
        totals={stage: math.fsum(row[stage] for row in rows) for stage in STAGES},
    )


def _stacked(
    mean: dict[str, float], scale: float, bottom: float
) -> list[tuple[str, float, float, float]]:
    parts: list[tuple[str, float, float, float]] = []
    for stage, seconds in mean.items():
        if seconds > 0:
            bottom -= seconds * scale
            parts.append((stage, round(bottom, 2), round(seconds * scale, 2), seconds))
    return parts


def stage_seconds(row: Mapping[str, float]) -> dict[str, float]:
    """Seconds of one iteration by stage; ``other`` is what the named stages leave of it."""
    named = {stage: float(row.get(f"time/{stage}", 0.0)) for stage in STAGES[:-1]}
    other = row["time/iteration"] - math.fsum(named.values())
    return {**named, "other": max(other, 0.0)}
