"""Copies of a run's checkpoints and exports at a URL (`ckpt.mirror`), made while it trains.

A checkpoint is there as a whole or not at all: its manifest, which it is known by, is copied last.
Another machine goes on with the newest one: ``open_mirror`` brings it into its run folder.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol, cast

from fsspec.core import url_to_fs

from rto.errors import RunFailed, foreign
from rto.sections.ranges import require
from rto.tracking.phases import tell
from rto.tracking.run_folder import CHECKPOINTS, EXPORTS
from rto.training.checkpoint import MANIFEST

LOOK_SECONDS = 2.0
"""How often the run folder is looked at for a new checkpoint."""
RECORDS = ("config.yaml", "versions.json", "run.json", "metrics.jsonl")
REMEDY = (
    "check the URL, the credentials in the environment, and that the file system's package is "
    "installed (s3fs, gcsfs, adlfs)"
)
Stamp = tuple[int, int]
"""Size and time of change of a file."""


class Files(Protocol):
    """What is asked of a file system of fsspec."""

    def find(self, path: str) -> list[str]: ...
    def makedirs(self, path: str, exist_ok: bool = False) -> None: ...
    def put_file(self, lpath: str, rpath: str) -> None: ...
    def get_file(self, rpath: str, lpath: str) -> None: ...
    def rm_file(self, path: str) -> None: ...
    def invalidate_cache(self) -> None: ...


class Mirror:
    """One run folder and its copy."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        with foreign(f"ckpt.mirror {url}", REMEDY):
            files, root = url_to_fs(url)
        self._files, self._root = cast(Files, files), PurePosixPath(root)
        self._copied: dict[str, Stamp] = {}

    def copy(self) -> None:
        """Bring the copy up to the run folder: checkpoints first; what the folder no longer has is
        removed last."""
        records = [name for name in RECORDS if (self._folder / name).is_file()]
        names = [*self._checkpoints(), *records, *self._below(EXPORTS)]
        for name in names:
            self._put(name)
        gone = set(self.found()) - set(names)
        # The manifest goes first: a checkpoint without one is none.
        for name in sorted(gone, key=lambda name: not name.endswith(MANIFEST)):
            self._files.rm_file(str(self._root / name))

    def copying(self) -> foreign:
        """The guard around ``copy``."""
        return foreign(f"ckpt.mirror {self.url}: copying failed", REMEDY, error=RunFailed)

    def new_checkpoint(self) -> bool:
        return any(name not in self._copied for name in self._checkpoints())

    def _checkpoints(self) -> list[str]:
        """Files of committed checkpoints, each one's manifest last."""
        steps = sorted((self._folder / CHECKPOINTS).glob("step_*"))
        names = self._below([step.relative_to(self._folder).as_posix() for step in steps])
        return sorted(names, key=lambda name: name.endswith(MANIFEST))

    def _below(self, folders: Sequence[str]) -> list[str]:
        return [
            path.relative_to(self._folder).as_posix()
            for each in folders
            for path in sorted((self._folder / each).rglob("*"))
            if path.is_file()
        ]

    def _put(self, name: str) -> None:
        local, remote = self._folder / name, self._root / name
        status = local.stat()
        stamp = status.st_size, status.st_mtime_ns
        if self._copied.get(name) != stamp:
            self._files.makedirs(str(remote.parent), exist_ok=True)
            self._files.put_file(str(local), str(remote))
            self._copied[name] = stamp

    def found(self) -> list[str]:
        """The files of the copy, by their names in the run folder."""
        self._files.invalidate_cache()
        paths = [PurePosixPath(path) for path in self._files.find(str(self._root))]
        return [path.relative_to(self._root).as_posix() for path in paths]

    def fetch(self) -> str | None:
        """Bring the newest checkpoint into the folder, with the exports and records that were
        copied beside it, if it is newer than those that are there; returns its name."""
        there = self.found()
        newest = max(_steps(there), default="")
        here = max((path.name for path in (self._folder / CHECKPOINTS).glob("step_*")), default="")
        if newest <= here:
            return None
        draft = self._folder / CHECKPOINTS / f"tmp_{newest}"
        shutil.rmtree(draft, ignore_errors=True)
        prefix = f"{CHECKPOINTS}/{newest}/"
        for name in there:
            if name.startswith(prefix):
                self._get(name, draft / name.removeprefix(prefix))
            elif name.split("/")[0] in (*EXPORTS, *RECORDS):
                self._get(name, self._folder / name)
        draft.rename(draft.with_name(newest))
        return newest

    def _get(self, name: str, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        self._files.get_file(str(self._root / name), str(place))


def _steps(names: Sequence[str]) -> Iterator[str]:
    """The checkpoints that are whole."""
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) == 3 and parts[0] == CHECKPOINTS and parts[2] == MANIFEST:
            yield parts[1]


def open_mirror(url: str | None, folder: Path, *, resume: bool) -> None:
    """With ``resume``, bring what another machine's run left at ``url``, where it is newer than
    the run folder.

    Raises:
        UserError: it cannot be read; or it holds a run, and this one does not go on with it.
    """
    if url is None:
        return
    mirror = Mirror(url, folder)
    with foreign(f"ckpt.mirror {url}", REMEDY):
        step = mirror.fetch() if resume else None
        free = resume or not mirror.found()
    require(
        free,
        f"ckpt.mirror {url} already holds files: set ckpt.load_enable to go on with the run that "
        "left them, or choose another URL",
    )
    if step is not None:
        tell(f"{step} fetched from {url}")


@contextmanager
def mirrored(url: str | None, folder: Path) -> Iterator[None]:
    """Within it each new checkpoint is copied by a thread, which tells of a copy that fails and
    tries again; at the end of a run that did not fail everything is copied.

    Raises:
        RunFailed: that last copy failed.
    """
    if url is None:
        yield
        return
    mirror, ended = Mirror(url, folder), threading.Event()
    thread = threading.Thread(target=_follow, args=(mirror, ended), name="mirror")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    with mirror.copying():
        mirror.copy()


def _follow(mirror: Mirror, ended: threading.Event) -> None:
    while True:
        last = ended.wait(LOOK_SECONDS)
        if mirror.new_checkpoint():
            _copy(mirror)
        if last:
            return


def _copy(mirror: Mirror) -> None:
    """A copy that fails is told, and tried again with the next look."""
    try:
        with mirror.copying():
            mirror.copy()
    except RunFailed as error:
        tell(str(error))
