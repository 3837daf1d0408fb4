"""The tracker of a run: metrics to a file, TensorBoard and W&B; every rollout to a file."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.tensorboard import SummaryWriter

from rto.errors import UserError
from rto.sections.runtime import Logger
from rto.tracking.console import LiveConsole
from rto.tracking.run_folder import RunFolder, write_atomic
from rto.tracking.timing import Timings
from rto.types import Role, Rollout, ScoredBatch

_DECIMALS = 4
_LOGPROBS = frozenset({Role.POLICY, Role.REFERENCE, Role.DPO, Role.DPO_REFERENCE})


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
        self._writers = tuple(writers)
        self._console = console
        self._timings = timings
        self._gauges = gauges
        self.latest: Mapping[str, float] = {}
        self._every = logging_steps

    def rollouts(self, iteration: int, rollouts: Sequence[Rollout], batch: ScoredBatch) -> None:
        path = self._folder.rollouts / f"iter_{iteration:06d}.jsonl.gz"
        write_rollouts(path, rollouts, batch)

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

    def close(self) -> None:
        for writer in (self._file, *self._writers):
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
        self._file = path.open("a", encoding="utf-8")

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        row = {"iteration": iteration, "time": round(time.time(), 3), **metrics}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

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
        self._writer = SummaryWriter(str(path), purge_step=first_iteration or None)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, iteration)

    def close(self) -> None:
        self._writer.close()


def write_rollouts(path: Path, rollouts: Sequence[Rollout], batch: ScoredBatch) -> None:
    """One gzipped JSON line per rollout. Equal content gives equal bytes."""
    if len(rollouts) != len(batch):
        raise ValueError(f"{len(rollouts)} rollouts for {len(batch)} scored rows")
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for row in rollout_rows(rollouts, batch):
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            file.write(line.encode("utf-8", "backslashreplace") + b"\n")
    draft.replace(path)


def rollout_rows(rollouts: Sequence[Rollout], batch: ScoredBatch) -> Iterator[dict[str, object]]:
    """What the rollout file says of each response: scores without padding, log-probs summed too."""
    columns = {role: _rounded(values) for role, values in batch.scores.items()}
    padding = ~batch.tokens.response_mask
    summed = columns.keys() & _LOGPROBS
    sums = {role: _rounded(batch[role].masked_fill(padding, 0).sum(-1)) for role in summed}
    for i, rollout in enumerate(rollouts):
        length = len(rollout.token_ids)
        scores: dict[str, object] = {}
        for role, column in columns.items():
            value = column[i]
            if isinstance(value, list):
                told = {"sum": sums[role][i]} if role in sums else {}
                scores[role.value] = {"tokens": value[:length], **told}
            else:
                scores[role.value] = value
        yield {
            "prompt_id": rollout.prompt.id,
            "sample_index": rollout.sample_index,
            "policy_version": rollout.policy_version,
            "seed": rollout.seed,
            "finished": rollout.finished,
            "prompt": rollout.prompt.text,
            "response": rollout.text,
            "response_ids": list(rollout.token_ids),
            "scores": scores,
        }


def _rounded(values: torch.Tensor) -> list[float | list[float]]:
    return values.detach().double().round(decimals=_DECIMALS).tolist()
