"""What stands of a job's run: its folder, its last figures and its newest checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from rto.report.summary import Summary, summarise
from rto.tracking.console import figure
from rto.tracking.run_folder import CHECKPOINTS


def reachable(run_folder: str | None) -> Path | None:
    """The run folder as a path of this machine; None where it is not there."""
    if run_folder is None:
        return None
    place = Path(os.path.expandvars(run_folder)).expanduser()
    return place if place.is_dir() else None


def figures(place: Path) -> str:
    """The last figures of a run, in words."""
    found = summarise(place)
    shown = [f"{name} {figure(value)}" for name, value in _metrics(found)]
    return ", ".join([f"{found.state}, step {found.steps}", *shown])


def standing(run_folder: str | None) -> list[str]:
    """Lines about the run folder, for someone who wants to go on with it."""
    if run_folder is None:
        return ["run folder  none that is known: no training command of rto"]
    place = reachable(run_folder)
    if place is None:
        return [f"run folder  {run_folder} (not on this machine, or not made yet)"]
    newest = newest_checkpoint(place)
    shown = "none was written yet (ckpt.save_steps)" if newest is None else str(newest)
    return [f"run folder  {place}", f"run         {figures(place)}", f"checkpoint  {shown}"]


def newest_checkpoint(place: Path) -> Path | None:
    """The newest one that was written whole; None before the first."""
    return max((place / CHECKPOINTS).glob("step_*"), default=None)


def _metrics(found: Summary) -> list[tuple[str, float]]:
    return [metric for metric in (found.loss, found.outcome) if metric is not None]
