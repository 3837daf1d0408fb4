"""Kill -9 of any process of a run, at random and at every bad moment: the run ends as if it had
lived. RTO_FAULT_TRIES sets the number of random kills."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from bigram_runs import left_of, model_folder
from crashing import Kind, ended
from real_runs import Left, Task, rows_of, write_small_task

from rto.cluster import launch
from rto.cluster.session import warm_actors
from rto.runs.execute import execute
from rto.sections.parse import parse_run
from rto.sections.runtime import Cluster

if TYPE_CHECKING:
    from conftest import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(6 * 3600)]

TRIES = int(os.environ.get("RTO_FAULT_TRIES", "10"))
SEED = int(os.environ.get("RTO_FAULT_SEED", "0"))
ROLES = ("engine", "policy or critic", "policy or critic", "scorer", "driver")
TITLES = {"engine": "EngineActor", "policy or critic": "TrainerActor", "scorer": "ScorerActor"}


@dataclass
class Supervised:
    """`rto train --supervise` with a Ray of its own."""

    process: subprocess.Popen[bytes]
    folder: Path
    killed: list[str] = field(default_factory=list)

    def processes(self, role: str) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        drivers = [child for child in parent.children() if "rto.cli.main" in _words(child)]
        if role == "driver":
            return drivers
        below = [process for driver in drivers for process in driver.children(recursive=True)]
        return [each for each in below if _name(each).startswith(f"ray::{TITLES[role]}")]

    def kill(self, role: str, dice: random.Random, patience: float = 600) -> bool:
        """One process of the role; waits for one. Returns whether it is gone and work was left."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self.process.poll() is None:
            found = self.processes(role)
            if found:
                victim = dice.choice(found)
                victim.kill()
                gone, _ = psutil.wait_procs([victim], timeout=10)
                self.killed.append(role)
                return bool(gone) and self.process.poll() is None
            time.sleep(0.1)
        return False

    def wait_for_progress(self, rows: int, patience: float = 900) -> None:
        """Until the metrics have changed so often."""
        path, seen, before = self.folder / "metrics.jsonl", 0, len(rows_of(self.folder))
        deadline = time.monotonic() + patience
        while seen < rows and self.process.poll() is None:
            assert time.monotonic() < deadline, f"no progress after {self.killed} ({path})"
            now = len(rows_of(self.folder))
            seen, before = seen + (now > before), now
            time.sleep(0.05)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


@contextmanager
def supervised(task: Task, name: str, iterations: int, **more: object) -> Iterator[Supervised]:
    flags = task.flags(name, iterations, ray__max_restarts=100000, **more)
    log = (task.root / f"{name}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "rto.cli.main", "train", *flags, "--supervise"],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Supervised(process, task.root / name)
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return write_small_task(tmp_path_factory.mktemp("kills"))


@pytest.mark.goal("R1", "kill -9 of an actor or the driver; the run ends with the same bits")
def test_random_kills(task: Task, tally: Tally) -> None:
    """Every role in turn, in random order, at a random moment after an iteration was logged."""
    dice, iterations = random.Random(SEED), 4 * TRIES
    with supervised(task, "killed", iterations) as run:
        roles: list[str] = []
        hit: list[bool] = []
        while len(hit) < TRIES:
            roles = roles or dice.sample(ROLES, len(ROLES))
            run.wait_for_progress(dice.choice((1, 1, 2)))
            time.sleep(dice.uniform(0, 2))
            hit.append(run.kill(roles.pop(), dice))
        code = run.process.wait(timeout=900)
    whole = undisturbed(task, iterations)
    same = code == 0 and task.left("killed").differences(whole) == []
    once = len(whole.keys) == 8 * iterations and len(task.left("killed").keys) == 8 * iterations
    for each in hit:
        tally.count(each and same and once)


def undisturbed(task: Task, iterations: int) -> Left:
    flags = task.flags("whole", iterations)
    line = [sys.executable, "-m", "rto.cli.main", "train", *flags]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return task.left("whole")


@pytest.mark.goal("R12", "at least 80 % of the time is of iterations that counted; one kill per 10")
def test_share_of_effective_time(tmp_path: Path, tally: Tally) -> None:
    """Iterations of some 15 s, most of it the wait for a slow reward: a restart takes as long as
    with a large model's scheduler, but not as a large model's weights."""
    task, dice = write_small_task(tmp_path, seconds=14.0), random.Random(SEED)
    with supervised(task, "run", 20) as run:
        run.wait_for_progress(1)
        began = time.monotonic() - rows_of(run.folder)[0]["time/iteration"]
        for role in ("engine", "policy or critic"):
            run.wait_for_progress(8)
            time.sleep(dice.uniform(0, 10))
            assert run.kill(role, dice)
        while len(rows_of(run.folder)) < 20:
            assert run.process.poll() is None
            time.sleep(0.2)
        took = time.monotonic() - began
    useful = sum(row["time/iteration"] for row in rows_of(run.folder))
    print(f"{useful:.0f} of {took:.0f} s were of iterations that counted: {useful / took:.0%}")
    tally.count(useful / took >= 0.8)


POINTS = (
    *("checkpoint.begun:1", "checkpoint.begun:3", "checkpoint.before_state:1"),
    *("checkpoint.before_manifest:2", "checkpoint.before_commit:1", "checkpoint.before_commit:5"),
    *("checkpoint.committed:1", "checkpoint.committed:5", "checkpoint.pruned:1"),
    *("run.before_checkpoint:1", "run.before_checkpoint:4", "run.before_commit:2"),
    *("run.before_export:1", "run.before_export:5", "rollouts.before_write:1"),
    *("rollouts.before_write:3", "rollouts.before_rename:5", "metrics.before_write:1"),
    *("metrics.before_write:5", "metrics.written:1", "metrics.written:4"),
    *(f"file.before_replace:{passage}" for passage in (1, 2, 3, 4)),
)
"""Of an online run's driver, in which it saves after each of five iterations."""
FEWER = (
    *("checkpoint.begun:2", "checkpoint.before_commit:2", "checkpoint.committed:2"),
    *("run.before_export:2", "metrics.before_write:2", "metrics.written:2"),
)
DRIVERS: Mapping[Kind, Sequence[str]] = {"online": POINTS, "lagging": FEWER, "offline": FEWER}


@pytest.mark.goal("R2", "a process killed at a point of its work; the run ends with the same bits")
def test_points_of_the_driver(tmp_path: Path, tally: Tally) -> None:
    model, plan = model_folder(tmp_path), tmp_path / "plan"
    for kind, points in DRIVERS.items():
        assert ended(kind, tmp_path / kind, model, plan) == 0
        whole = left_of(tmp_path / kind)
        for point in points:
            folder = tmp_path / f"{kind}-{point.replace(':', '-')}"
            plan.write_text(point)
            killed = ended(kind, folder, model, plan) == -9
            finished = ended(kind, folder, model, plan) == 0
            if not tally.count(killed and finished and left_of(folder) == whole):
                print(f"{kind} {point}: killed {killed}, finished {finished}")


ACTOR_POINTS = (
    *("rank.before_update:3", "rank.updated:2", "rank.before_score:4", "rank.before_push:3"),
    *("rank.before_save:2", "rank.saved:1", "export.before_rename:2", "scorer.before_score:3"),
    *("engine.before_generate:3", "engine.generated:2", "engine.before_load:2", "engine.loaded:3"),
    "engine.before_accept:3",
)


@pytest.mark.goal("R2", "a process killed at a point of its work; the run ends with the same bits")
def test_points_of_actors(
    task: Task, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plan"
    monkeypatch.setenv("RTO_CRASH", str(plan))
    launch.start(Cluster(num_cpus=2, object_store_gib=0.3), num_actors=8, log_dir=tmp_path)

    def left(name: str) -> Left:
        execute("train", parse_run("train", task.flags(name, 4)).config)
        return task.left(name)

    with warm_actors():
        whole = left("unharmed")
        for point in ACTOR_POINTS:
            plan.write_text(point)
            differences = left(point.replace(":", "-")).differences(whole)
            if not tally.count(not plan.exists() and differences == []):
                print(f"{point}: struck {not plan.exists()}, differs in {differences}")
    launch.stop()
