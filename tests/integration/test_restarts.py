"""A policy rank is killed under a run, which ends as if it had not been: its peer waits for it in a
collective. Other actors, and many more kills: tests/faults/test_kills.py."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import ray
from real_runs import Task, rows_of, write_small_task

from rto.cluster.build import Actors, Progress
from rto.runs import online
from rto.runs.execute import execute
from rto.runs.online import OnlineRun, Pipeline
from rto.sections.parse import parse_run

# Two minutes: it runs with make test-learn.
pytestmark = [pytest.mark.integration, pytest.mark.learn, pytest.mark.timeout(600)]

ITERATIONS = 4


@dataclass
class Roster:
    """The processes of a run's actors, by group."""

    pids: dict[str, list[int]] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)

    def write(self, actors: Actors) -> None:
        # A function of its own: what a test module defines is not there in an actor.
        self.pids = {
            name: ray.get([each.__ray_call__.remote(lambda actor: os.getpid()) for each in group])
            for name, group in ((name, group.actors) for name, group in actors.groups.items())
        }

    def kill_at(self, folder: Path, rows: int, group: str, rank: int = 0) -> None:
        """As soon as so many iterations are logged."""
        while len(rows_of(folder)) < rows:
            time.sleep(0.02)
        pid = self.pids[group][rank]
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
        self.gone += [] if psutil.pid_exists(pid) else [pid]


@pytest.fixture
def roster(monkeypatch: pytest.MonkeyPatch) -> Roster:
    found = Roster()

    def build(run: OnlineRun, actors: Actors, progress: Progress) -> Pipeline:
        pipeline = build_pipeline(run, actors, progress)
        found.write(actors)
        return pipeline

    build_pipeline = online.build_pipeline
    monkeypatch.setattr(online, "build_pipeline", build)
    return found


@pytest.fixture(scope="module")
def task(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return write_small_task(tmp_path_factory.mktemp("restarts"))


def train(task: Task, name: str) -> Path:
    flags = task.flags(name, ITERATIONS, ray__max_restarts=2)
    return execute("train", parse_run("train", flags).config).folder


def test_a_run_whose_rank_is_killed_is_the_run_in_which_it_lives(
    task: Task, roster: Roster, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(task, "whole")

    killer = threading.Thread(
        target=roster.kill_at, args=[task.root / "killed", 2, "policy", 1], daemon=True
    )
    killer.start()
    folder = train(task, "killed")
    killer.join(timeout=10)
    assert len(roster.gone) == 1
    assert task.left("killed").differences(task.left("whole")) == []
    assert len(task.left("killed").keys) == ITERATIONS * 8
    about = json.loads((folder / "run.json").read_text())
    assert about["status"] == "finished"
    (lost,) = about["restarts"]
    assert lost["lost"].startswith("actor policy[1] died")
    assert "restarts" not in json.loads((whole / "run.json").read_text())
    said = capsys.readouterr().out
    assert f"start anew, from {lost['checkpoint']} on; 1 restarts left" in said
