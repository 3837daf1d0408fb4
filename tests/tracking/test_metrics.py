from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import wandb
from sampled_pair import two_rollouts

from rto.errors import StorageFailed, UserError
from rto.sections.runtime import Logger, WandB
from rto.tracking.metrics import JsonlWriter, RunTracker, open_tracker
from rto.tracking.quiet import QUIET_ENV
from rto.tracking.rollout_read import find_rollouts
from rto.tracking.run_folder import RunFolder
from rto.tracking.timing import Timings


class Memory:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.seen.append((iteration, dict(metrics)))

    def close(self) -> None: ...


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_iteration_is_one_line(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        tracker = RunTracker(folder)
        tracker.log(0, {"reward/mean": 1.5})
        tracker.log(1, {"reward/mean": 2.0, "kl/mean": 0.1})
        first, second = rows(folder.metrics)
    assert first.keys() == {"iteration", "time", "reward/mean"}
    assert (first["iteration"], second["iteration"]) == (0, 1)
    assert (second["reward/mean"], second["kl/mean"]) == (2.0, 0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_names_its_key(tmp_path: Path, value: float) -> None:
    with RunFolder(tmp_path / "run") as folder:
        tracker = RunTracker(folder)
        with pytest.raises(ValueError, match="metric kl/mean is .* at iteration 4"):
            tracker.log(4, {"reward/mean": 1.0, "kl/mean": value})
        assert folder.metrics.read_text() == ""


def test_a_key_without_an_area_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder, pytest.raises(ValueError, match="'reward'"):
        RunTracker(folder).log(0, {"reward": 1.0})


def test_writers_get_every_nth_iteration_and_the_file_gets_all(tmp_path: Path) -> None:
    memory = Memory()
    with RunFolder(tmp_path / "run") as folder:
        tracker = RunTracker(folder, writers=[memory], logging_steps=2)
        for iteration in range(5):
            tracker.log(iteration, {"a/b": float(iteration)})
        assert len(rows(folder.metrics)) == 5
    assert memory.seen == [(0, {"a/b": 0.0}), (2, {"a/b": 2.0}), (4, {"a/b": 4.0})]


def test_timings_of_the_iteration_are_merged(tmp_path: Path) -> None:
    memory = Memory()
    timings = Timings()
    with RunFolder(tmp_path / "run") as folder:
        tracker = RunTracker(folder, writers=[memory], timings=timings)
        with timings.measure("update"):
            pass
        tracker.log(0, {"a/b": 1.0})
    assert {"a/b", "time/update", "time/iteration"} <= memory.seen[0][1].keys()


def test_a_resumed_run_drops_the_lines_that_it_repeats(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        tracker = RunTracker(folder)
        for iteration in range(4):
            tracker.log(iteration, {"a/b": 1.0})
        with folder.metrics.open("a") as file:
            file.write('{"iteration": 4, "ti')
    with RunFolder(tmp_path / "run", resume=True) as folder:
        RunTracker(folder, first_iteration=2).log(2, {"a/b": 9.0})
        kept = [(row["iteration"], row["a/b"]) for row in rows(folder.metrics)]
    assert kept == [(0, 1.0), (1, 1.0), (2, 9.0)]


def test_a_broken_metrics_line_is_named(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.metrics.write_text('{"iteration": 0}\nhello\n')
        with pytest.raises(UserError, match=r"metrics\.jsonl:2: not a metrics line"):
            RunTracker(folder, first_iteration=1)


def test_a_rollout_file_per_iteration_is_there_after_a_flush(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        tracker = RunTracker(folder)
        for iteration in (0, 12):
            tracker.rollouts(iteration, *two_rollouts())
        tracker.flush()
        assert [path.name for path in find_rollouts(folder.path).values()] == [
            "iter_000000.parquet",
            "iter_000012.parquet",
        ]
        tracker.rollouts(13, *two_rollouts())
        tracker.close()
        assert list(find_rollouts(folder.path)) == [0, 12, 13]


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunFolder(tmp_path / "run") as folder:
        tracker = open_tracker(folder, Logger())
        tracker.log(0, {"reward/mean": 0.5})
        tracker.log(1, {"reward/mean": 0.75})
        tracker.close()
        events = EventAccumulator(str(folder.tensorboard)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(0, 0.5), (1, 0.75)]


WANDB = Logger(tensorboard=False, wandb=WandB(enable=True))


@pytest.mark.parametrize("logged_in", [True, False])
def test_the_key_of_wandb_login_counts(tmp_path: Path, logged_in: bool) -> None:
    netrc = tmp_path / "netrc"  # As `wandb login` leaves it.
    netrc.write_text(f"machine wandb.example.org login user password {'0a' * 20}\n")
    netrc.chmod(0o600)
    asked = "https://wandb.example.org" if logged_in else "https://other.example.org"
    kept = {k: v for k, v in os.environ.items() if k not in ("WANDB_API_KEY", "WANDB_MODE")}
    # In a process of its own, for wandb keeps the settings that it once found; silent, as a run has
    # it: else wandb asks the server for the user's name.
    code = (
        "from rto.sections.runtime import WandB\n"
        "from rto.tracking.wandb_writer import check_wandb\n"
        "check_wandb(WandB(enable=True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **QUIET_ENV, "NETRC": str(netrc), "WANDB_BASE_URL": asked},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) is logged_in, done.stderr
    assert ("no key is known: run `wandb login`" in done.stderr) is not logged_in


def test_wandb_offline_writes_below_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with RunFolder(tmp_path / "run") as folder:
        folder.write_config("train: {seed: 1}\n")
        tracker = open_tracker(folder, WANDB)
        assert wandb.run is not None
        assert dict(wandb.run.config) == {"train": {"seed": 1}}
        tracker.log(0, {"reward/mean": 0.5})
        tracker.close()
        assert list(folder.logs.glob("wandb/offline-run-*/*.wandb"))


UNREACHABLE = """
import logging, sys
from rto.sections.runtime import Logger, WandB
from rto.tracking import metrics, wandb_writer
from rto.tracking.run_folder import RunFolder
logging.basicConfig(format="%(message)s")
wandb_writer.WANDB_INIT_SECONDS = 2.0
section = Logger(tensorboard=False, wandb=WandB(enable=True))
with RunFolder(sys.argv[1]) as folder:
    folder.write_config("train: {seed: 1}")
    tracker = metrics.open_tracker(folder, section)
    for iteration in range(3):
        tracker.log(iteration, {"a/b": 1.0})
    tracker.close()
"""


def test_wandb_failure_is_warned_of_once_and_training_goes_on(tmp_path: Path) -> None:
    key = "5ecre7" * 7
    done = subprocess.run(
        [sys.executable, "-c", UNREACHABLE, str(tmp_path / "run")],
        env={**os.environ, "WANDB_API_KEY": key, "WANDB_BASE_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr.count("W&B is off for the rest of this run") == 1
    assert len(rows(tmp_path / "run" / "metrics.jsonl")) == 3
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert key not in done.stdout + done.stderr
    assert not [path for path in written if key.encode() in path.read_bytes()]


class Filling:
    """A disk that takes so many more bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self.room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._file.write(text[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_line_that_the_disk_has_no_room_for_is_not_begun(tmp_path: Path, room: int) -> None:
    with RunFolder(tmp_path / "run") as folder:
        writer = JsonlWriter(folder.metrics)
        writer.write(0, {"a/b": 1.0})
        writer._file = disk = Filling(writer._file, room)  # pyright: ignore
        with pytest.raises(StorageFailed, match="is full"):
            writer.write(1, {"a/b": 2.0})
        assert [row["iteration"] for row in rows(folder.metrics)] == [0]
        disk.room = 1000
        writer.write(1, {"a/b": 3.0})
        writer.close()
        assert [row["a/b"] for row in rows(folder.metrics)] == [1.0, 3.0]
