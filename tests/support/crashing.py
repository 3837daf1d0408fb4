"""Whole runs on actors of one process, in processes that die at a point (`rto.crash`)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from functools import partial
from pathlib import Path
from typing import Literal

from bigram_runs import offline, online
from local_group import bigram
from local_run import LocalSession

from rto import crash
from rto.runs import offline as offline_module
from rto.runs import online as online_module
from rto.runs.offline import OfflineRun, find_checkpoint, run_offline
from rto.runs.online import run_online
from rto.runs.restarts import Restarts
from rto.runs.supervise import put_aside
from rto.tracking.run_folder import RunFolder
from rto.tracking.run_state import RunState
from rto.types import Role

Kind = Literal["online", "lagging", "offline"]
FORK = multiprocessing.get_context("fork")
"""What takes long to import is there already."""


def drive(kind: Kind, folder: Path, model: str, plan: Path) -> None:
    """What the driver does, from its folder to its end; the plan kills it."""
    crash.PLAN = str(plan)
    for module in (online_module, offline_module):
        module.session = LocalSession({"frozen": {Role.REFERENCE: bigram()}})  # pyright: ignore
    run = (
        offline(model)
        if kind == "offline"
        else online(model, save_steps=1, lag=1 if kind == "lagging" else 0)
    )
    work = partial(run_offline, run) if isinstance(run, OfflineRun) else partial(run_online, run)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        RunFolder(folder, resume=True) as opened,
        RunState(opened, {}) as state,
    ):
        newest = partial(find_checkpoint, run.config, run.method, opened.checkpoints)
        restarts = Restarts(0, newest, lambda made: None)
        state.finish_with(restarts.run(work, opened, newest()))


def ended(kind: Kind, folder: Path, model: str, plan: Path) -> int | None:
    """The exit code of a process that does it."""
    put_aside(folder)
    process = FORK.Process(target=drive, args=(kind, folder, model, plan))
    process.start()
    process.join(timeout=120)
    process.kill()
    return process.exitcode
