"""What a person sees of a run: a live display on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rto.tracking.quiet import escape_control

ONLINE = {
    "reward": "reward/mean",
    "KL": "kl/mean",
    "length": "response/length",
    "generate tok/s": "rate/generate_tokens_per_s",
    "score tok/s": "rate/score_tokens_per_s",
    "update tok/s": "rate/update_tokens_per_s",
}
"""Columns of online training: label -> metric."""


class LiveConsole:
    """Progress of one stage of the recipe: iteration i of N, its figures, time left.

    ``columns`` maps labels to metrics; a metric that an iteration does not have is left out.
    Where the output is no terminal, a line is printed every ``seconds`` and at the end.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int,
        first: int = 0,
        unit: str = "iteration",
        columns: Mapping[str, str] = ONLINE,
        seconds: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self._title, self._unit, self._columns = title, unit, columns
        self._total, self._first, self._done = total, first, first
        self._seconds, self._clock = seconds, clock
        self._began = clock()
        self._printed: float | None = None
        self._stage = "starting"
        self._figures: dict[str, str] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, get_renderable=self.render, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self) -> None:
        """Start-up is over: the time left is told from here on."""
        self._began = self._clock()

    def stage(self, name: str) -> None:
        """What the run does now; ``Timings`` calls this."""
        self._stage = name

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Iteration ``iteration`` (counted from 0) is done."""
        self._done = iteration + 1
        self._figures = {
            label: figure(metrics[key]) for label, key in self._columns.items() if key in metrics
        }
        if self._live is None and self._is_due():
            self._printed = self._clock()
            self.console.print(Text(self.line()), soft_wrap=True)

    def print(self, text: str) -> None:
        """A line above the live display; text of any origin is safe to print."""
        self.console.print(Text(escape_control(text)), soft_wrap=True)

    def line(self) -> str:
        """The state of the run in one line."""
        parts = [f"{self._title}: {self._unit} {self._done}/{self._total}"]
        parts += [f"{label} {value}" for label, value in self._figures.items()]
        return "  ".join([*parts, f"left {self._left()}"])

    def render(self) -> RenderableType:
        """The live display: a bar with the current stage, and the figures below it."""
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=self._total, completed=self._done, width=30),
            f"{self._unit} {self._done}/{self._total}",
            Text(self._stage, style="cyan"),
            f"left {self._left()}",
        )
        figures = Table.grid(padding=(0, 2))
        figures.add_row(*(Text(label, style="dim") for label in self._figures))
        figures.add_row(*self._figures.values())
        return Group(bar, figures)

    def _is_due(self) -> bool:
        if self._printed is None or self._done >= self._total:
            return True
        return self._clock() - self._printed >= self._seconds

    def _left(self) -> str:
        done = self._done - self._first
        if done == 0:
            return "?"
        pace = (self._clock() - self._began) / done
        return duration(pace * max(self._total - self._done, 0))


def table(rows: Sequence[Mapping[str, object]], *, title: str = "") -> Table:
    """Rows of equal keys as a rich table; numbers are aligned to the right."""
    result = Table(title=title or None)
    for name, value in rows[0].items():
        result.add_column(name, justify="right" if isinstance(value, (int, float)) else "left")
    for row in rows:
        result.add_row(*(cell(value) for value in row.values()))
    return result


def cell(value: object) -> Text:
    text = figure(value) if isinstance(value, float) else str(value)
    return Text(escape_control(text))


def figure(value: float) -> str:
    """Four significant digits, no exponent for everyday sizes."""
    if value != 0 and abs(value) < 1e-4:
        return f"{value:.2e}"
    digits = 0 if abs(value) >= 1000 else 4 if abs(value) < 1 else 3 if abs(value) < 10 else 1
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds as 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
