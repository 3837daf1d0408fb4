"""A run that outlives its actors: where one dies, all start anew from the newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rto.errors import ActorLost
from rto.tracking.phases import tell
from rto.tracking.run_folder import RunFolder

if TYPE_CHECKING:
    from rto.training.checkpoint import Checkpoint

    Work = Callable[[RunFolder, Checkpoint | None], dict[str, float]]

Note = Callable[[Sequence[Mapping[str, str]]], None]
"""Hears all restarts of the run after each, as ``run.json`` has them."""


@dataclass(frozen=True)
class Restart:
    """When what was lost, and the checkpoint that the run went on from; empty: its first step."""

    at: str
    lost: str
    checkpoint: str


@dataclass
class Restarts:
    """Begins the work of a run anew, ``most`` times in all (``ray.max_restarts``).

    The seeds of a run depend on nothing that a restart changes, so that it ends with the weights of
    one in which no actor died. ``newest`` finds the checkpoint to go on from.
    """

    most: int
    newest: Callable[[], Checkpoint | None]
    note: Note
    made: list[Restart] = field(default_factory=list)
    _failed_start: str = ""
    """What ended the start before this one, if nothing had begun by then."""

    def run(self, work: Work, folder: RunFolder, found: Checkpoint | None) -> dict[str, float]:
        """
        Raises:
            ActorLost: once more than ``most`` times; or twice in a row the same, before a step.
        """
        while True:
            before = _changed(folder.metrics)
            try:
                return work(folder, found)
            except ActorLost as error:
                lost, begun = str(error), _changed(folder.metrics) != before
                if self.most == 0:
                    raise
                if why := self._refusal(lost, begun):
                    raise ActorLost(f"{lost}; {why}") from error
            self._failed_start = "" if begun else lost
            found = self.newest()
            self._tell(lost, found)

    def _refusal(self, lost: str, begun: bool) -> str:
        """Why the run ends here; empty where it goes on."""
        if not begun and lost == self._failed_start:
            return "the start before it ended in the same way"
        if len(self.made) == self.most:
            return f"the {self.most} restarts of ray.max_restarts are used up"
        return ""

    def _tell(self, lost: str, found: Checkpoint | None) -> None:
        name = "" if found is None else found.path.name
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        self.made.append(Restart(at, lost, name))
        self.note([asdict(each) for each in self.made])
        left = self.most - len(self.made)
        tell(
            f"{lost}; the actors start anew, from {name or 'the first step'} on; "
            f"{left} restarts left (ray.max_restarts)"
        )


def _changed(path: Path) -> tuple[int, int] | None:
    """Inode and time of change; None of a file that is not there."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
