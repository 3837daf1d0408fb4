"""Progress of a run on the screen: a live display on a terminal, plain lines anywhere else."""

from __future__ import annotations

import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rto.tracking.phases import tell
from rto.tracking.quiet import escape_control

ONLINE = {
    "reward": "reward/mean",
    "KL": "kl/mean",
    "loss": "policy/loss",
    "length": "response/length",
    "generate tok/s": "rate/generate_tokens_per_s",
    "score tok/s": "rate/score_tokens_per_s",
    "update tok/s": "rate/update_tokens_per_s",
}
"""Columns of online training: label -> metric."""

TRENDS = ("reward", "loss")
"""Columns whose past is shown too."""
TREND_WIDTH = 24
BARS = "▁▂▃▄▅▆▇█"
HEARTBEAT = 60.0
"""If the output is not a terminal, a step that takes longer than these seconds gets a line."""
LOOK = 1.0
"""Seconds between two looks at whether that is so."""


class LiveConsole:
    """Progress of one stage of the recipe: what is waited for before the first step, then iteration
    i of N, its figures, time left.

    ``columns`` maps labels to metrics; a metric that an iteration does not have keeps its last
    value. Where the output is no terminal, a line is printed every ``seconds`` and at the end, and
    every ``HEARTBEAT`` seconds within a step.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int,
        unit: str = "iteration",
        columns: Mapping[str, str] = ONLINE,
        seconds: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = tell,
    ) -> None:
        """``tell`` hears of each phase before the first step."""
        self.console = console or Console()
        self._tell = tell
        self._title, self._unit, self._columns = title, unit, columns
        self._total, self._first, self._done = total, 0, 0
        self._seconds, self._clock = seconds, clock
        self._began = self._stage_began = self._beaten = clock()
        self._printed: float | None = None
        self._stage, self._progress = "starting", ""
        self._stepping = False
        self._figures: dict[str, float] = {}
        self._past: dict[str, deque[float]] = {}
        self._live: Live | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, get_renderable=self.render, refresh_per_second=4
            )
            self._live.start()
        else:
            threading.Thread(target=self._beats, name="console", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        if self._live is not None:
            self._live.stop()

    def begin(self, first: int = 0) -> None:
        """Start-up is over: from here on the time left is shown. A run that resumes begins with
        step ``first``, and those before took none of its time."""
        self._first = self._done = first
        self.stage("first step")
        self._began = self._clock()
        self._stepping = True

    def stage(self, name: str) -> None:
        """What the run does now, or waits for; ``Timings`` calls this. Before the first step each
        is a line of its own."""
        self._stage, self._progress = name, ""
        self._stage_began = self._beaten = self._clock()
        if not self._stepping:
            self._tell(name)

    def progress(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of a stage; a new name begins the stage."""
        if name != self._stage:
            self.stage(name)
        self._progress = f"{done}/{total}"
        self.beat(self._seconds)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Iteration ``iteration`` (counted from 0) is done."""
        self._done = iteration + 1
        new = {label: metrics[key] for label, key in self._columns.items() if key in metrics}
        known = {**self._figures, **new}
        self._figures = {label: known[label] for label in self._columns if label in known}
        for label in TRENDS:
            if label in new:
                self._past.setdefault(label, deque(maxlen=TREND_WIDTH)).append(new[label])
        if self._live is None and self._is_due():
            self._printed = self._beaten = self._clock()
            self.console.print(Text(self.line()), soft_wrap=True)

    def print(self, text: str) -> None:
        """A line above the live display; text of any origin is safe to print."""
        self.console.print(Text(escape_control(text)), soft_wrap=True)

    def tick(self, check: str) -> None:
        """A check that passed."""
        self.print(f"{check}  {'ok' if self.console.options.ascii_only else '✓'}")

    def line(self) -> str:
        """The state of the run in one line."""
        parts = [f"{self._title}: {self._unit} {self._done}/{self._total}"]
        parts += [f"{label} {figure(value)}" for label, value in self._figures.items()]
        return "  ".join([*parts, f"left {self._left()}"])

    def beat(self, every: float = HEARTBEAT) -> None:
        """Where the output is no terminal: a sign of life, ``every`` seconds after the last one."""
        if self._live is None and self._clock() - self._beaten >= every:
            self._beaten = self._clock()
            at = f"{self._unit} {self._done + 1}/{self._total}: " if self._stepping else ""
            self.print(f"{self._title}: {at}{self._doing()}")

    def render(self) -> RenderableType:
        """The live display: a bar with the current stage, and the figures below it."""
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=self._total, completed=self._done, width=30),
            f"{self._unit} {self._done}/{self._total}",
            Text(self._doing(), style="cyan"),
            f"left {self._left()}",
        )
        figures = Table.grid(padding=(0, 2))
        figures.add_row(*(Text(label, style="dim") for label in self._figures))
        figures.add_row(*map(figure, self._figures.values()))
        trends = Table.grid(padding=(0, 2))
        for label, past in self._past.items():
            if len(past) > 1 and not self.console.options.ascii_only:
                trends.add_row(Text(label, style="dim"), sparkline(past))
        return Group(bar, figures, trends)

    def _beats(self) -> None:
        while not self._closed.wait(LOOK):
            self.beat()

    def _doing(self) -> str:
        """The stage, how far it is where that is known, and for how long."""
        parts = [self._stage, self._progress, f"{self._clock() - self._stage_began:.0f} s"]
        return " ".join(part for part in parts if part)

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


def sparkline(values: Iterable[float]) -> str:
    """A bar per value, from the least to the greatest of them; all in the middle where equal."""
    known = list(values)
    low, span = min(known), max(known) - min(known)
    if span == 0:
        return BARS[len(BARS) // 2] * len(known)
    return "".join(BARS[min(int((x - low) / span * len(BARS)), len(BARS) - 1)] for x in known)


def where_to_look(folder: Path, *, tensorboard: bool) -> str:
    """The commands that show the curves of a running run."""
    path = shlex.quote(str(folder))
    board = f"tensorboard --logdir {shlex.quote(str(folder / 'tensorboard'))}, "
    return f"curves: {board if tensorboard else ''}rto report --watch {path}"


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
