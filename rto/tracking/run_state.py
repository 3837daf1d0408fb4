"""Record how a run ended in ``run.json``, and say it on the screen."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from rto.errors import RtoError, RunFailed, StorageFailed, Terminated, UserError, told
from rto.secrets import hide
from rto.storage import storage_problem
from rto.text import one_line
from rto.tracking.run_folder import RunFolder
from rto.tracking.signals import as_signal, end_on_signals

INTERRUPTED = 130


@dataclass
class RunState:
    """Within it a run is ``running``; behind it ``finished``, ``failed`` or ``interrupted``.

    ``about`` is what ``run.json`` says from the start, ``results`` what it says beside that of a
    run that has finished. Any other end adds a reason, and names the last checkpoint.
    """

    folder: RunFolder
    about: Mapping[str, object]
    results: Mapping[str, float] = field(default_factory=dict)
    _began: str = ""

    def __enter__(self) -> Self:
        end_on_signals()
        self._began = _now()
        self._write("running", pid=os.getpid())
        return self

    def note(self, **more: object) -> None:
        """What ``run.json`` says from now on beside what it said from the start."""
        self.about = {**self.about, **more}
        self._write("running", pid=os.getpid())

    def finish_with(self, results: Mapping[str, float]) -> None:
        """What ``run.json`` will say beside that the run has finished."""
        self.results = results

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: object
    ) -> None:
        if cause is None:
            self._write("finished", ended=_now(), exit_code=0, results=dict(self.results))
            return
        end = self._end(as_signal(cause))
        match end:
            case RtoError():
                status, code = "failed", end.exit_code
            case Terminated():
                status, code = "interrupted", end.exit_code
            case _:
                status, code = "interrupted", INTERRUPTED
        reason = hide(one_line(str(end)))
        newest = newest_checkpoint(self.folder)
        checkpoint = newest and newest.name
        try:
            self._write(status, ended=_now(), exit_code=code, reason=reason, checkpoint=checkpoint)
        except (OSError, StorageFailed) as error:
            print(f"run.json could not be written ({told(error)})", file=sys.stderr)
        raise end from cause

    def _end(self, cause: BaseException) -> BaseException:
        """What the program says of the end: one line, with the way on."""
        way = way_on(self.folder)
        if isinstance(cause, KeyboardInterrupt):
            return KeyboardInterrupt(f"interrupted; {way}")
        if isinstance(cause, Terminated):
            return Terminated(cause.exit_code, f"{cause}; {way}")
        if isinstance(cause, RtoError) and not isinstance(cause, RunFailed):
            nothing_to_add = isinstance(cause, UserError) and newest_checkpoint(self.folder) is None
            return cause if nothing_to_add else type(cause)(f"{cause}; {way}")
        said = str(cause) if isinstance(cause, RunFailed) else told(cause)
        problem = storage_problem(cause, self.folder.path)
        if problem:
            return StorageFailed(f"{problem} ({said}); {way}; {self._keep(cause)}")
        return RunFailed(f"{said}; {way}; {self._keep(cause)}")

    def _keep(self, cause: BaseException) -> str:
        """Write the traceback down; returns where it is."""
        path = self.folder.logs / "traceback.txt"
        try:
            path.write_text(
                hide("".join(traceback.format_exception(cause))),
                encoding="utf-8",
                errors="backslashreplace",
            )
        except OSError as error:
            return f"the traceback could not be written ({told(error)})"
        return f"the whole traceback: {path}"

    def _write(self, status: str, **more: object) -> None:
        self.folder.write_about({**self.about, "status": status, "began": self._began, **more})


def newest_checkpoint(folder: RunFolder) -> Path | None:
    """Path of the newest checkpoint that was written whole; None before the first."""
    return max(folder.checkpoints.glob("step_*"), default=None)


def way_on(folder: RunFolder) -> str:
    """Where a run that did not finish can be taken up again."""
    newest = newest_checkpoint(folder)
    if newest is None:
        return "no checkpoint was written yet (ckpt.save_steps)"
    return f"last checkpoint: {newest} (--ckpt.load_enable goes on from it)"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
