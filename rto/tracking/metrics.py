"""The tracker of a run: metrics to a file, TensorBoard and W&B; every rollout to a file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch.utils.tensorboard import SummaryWriter

from rto.crash import crash_point
from rto.errors import UserError
from rto.sections.runtime import Logger
from rto.storage import writing
from rto.tracking.console import LiveConsole
from rto.tracking.rollout_write import RolloutWriter
from rto.tracking.run_folder import RunFolder, write_atomic
from rto.tracking.timing import Timings
from rto.types import Rollout, ScoredBatch

Gauges = Callable[[], Mapping[str, float]]
"""Metrics read at the end of each iteration, from parts that the loop gets no metrics from."""


class Writer(Protocol):
    """A place that metrics go to."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class RunTracker:
    """Implements ``rto.protocols.Tracker`` on a run folder.

    ``metrics.jsonl`` has every iteration; the other writers every ``logging_steps``-th and those
    that evaluate. Timings
    and gauges are merged in here, so the loop needs no timers. ``latest`` holds the last
    iteration's metrics.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        writers: Sequence[Writer] = (),
        console: LiveConsole | None = None,
        timings: Timings | None = None,
        gauges: Gauges | None = None,
        logging_steps: int = 1,
        first_iteration: int = 0,
    ) -> None:
        self._folder = folder
        self._file = JsonlWriter(folder.metrics, first_iteration=first_iteration)
        self._rollouts = RolloutWriter()
        self._writers = tuple(writers)
        self._console = console
        self._timings = timings
        self._gauges = gauges
        self.latest: Mapping[str, float] = {}
        self._every = logging_steps

    def rollouts(self, iteration: int, rollouts: Sequence[Rollout], batch: ScoredBatch) -> None:
        path = self._folder.rollouts / f"iter_{iteration:06d}.parquet"
        self._rollouts.write(path, rollouts, batch)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        if self._timings is not None:
            metrics = {**metrics, **self._timings.lap()}
        if self._gauges is not None:
            metrics = {**metrics, **self._gauges()}
        check_metrics(iteration, metrics)
        self.latest = metrics
        self._file.write(iteration, metrics)
        if iteration % self._every == 0 or any(key.startswith("eval/") for key in metrics):
            for writer in self._writers:
                writer.write(iteration, metrics)
        if self._console is not None:
            self._console.log(iteration, metrics)

    def tell(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line)
        else:
            print(line, flush=True)

    def flush(self) -> None:
        """Wait until the rollouts of every iteration so far are on the disk."""
        self._rollouts.flush()

    def close(self) -> None:
        for writer in (self._rollouts, self._file, *self._writers):
            writer.close()


def open_tracker(
    folder: RunFolder,
    logger: Logger,
    *,
    console: LiveConsole | None = None,
    timings: Timings | None = None,
    gauges: Gauges | None = None,
    first_iteration: int = 0,
) -> RunTracker:
    """The tracker that the ``logger`` section describes. W&B is given the settings that the run
    folder has."""
    writers: list[Writer] = []
    if logger.tensorboard:
        writers.append(TensorBoardWriter(folder.tensorboard, first_iteration=first_iteration))
    if logger.wandb.enable:
        # It takes a second to import, and starts a process of its own.
        from rto.tracking.wandb_writer import WandbWriter

        writers.append(WandbWriter(logger.wandb, folder))
    return RunTracker(
        folder,
        writers=writers,
        console=console,
        timings=timings,
        gauges=gauges,
        logging_steps=logger.logging_steps,
        first_iteration=first_iteration,
    )


def check_metrics(iteration: int, metrics: Mapping[str, float]) -> None:
    """Keys are ``<area>/<name>``, values finite."""
    for key, value in metrics.items():
        if "/" not in key:
            raise ValueError(f"metric {key!r}: the key is not <area>/<name>")
        if not math.isfinite(value):
            raise ValueError(f"metric {key} is {value} at iteration {iteration}: not finite")


class JsonlWriter:
    """One JSON object per iteration. A resumed run drops what lies at or after its start."""

    def __init__(self, path: Path, *, first_iteration: int = 0) -> None:
        if path.exists():
            kept = [line for step, line in _lines(path) if step < first_iteration]
            write_atomic(path, "".join(kept))
        self._folder = path.parent
        self._file = path.open("ab", buffering=0)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        row = {"iteration": iteration, "time": round(time.time(), 3), **metrics}
        line = memoryview((json.dumps(row, allow_nan=False) + "\n").encode())
        whole = self._file.tell()
        crash_point("metrics.before_write")
        with writing(self._folder):
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                # The next line would go on in the middle of this one.
                self._file.truncate(whole)
                raise
        crash_point("metrics.written")

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(iteration, line) of each complete line; one without its newline was cut by a crash."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                iteration = int(json.loads(line)["iteration"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{number}: not a metrics line: remove it to resume this run"
                ) from error
            yield iteration, line


class TensorBoardWriter:
    def __init__(self, path: Path, *, first_iteration: int = 0) -> None:
        purged = first_iteration if path.exists() else None
        self._writer = SummaryWriter(str(path), purge_step=purged)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, iteration)

    def close(self) -> None:
        self._writer.close()
