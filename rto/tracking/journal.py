"""Values that a run has paid for, by key: files that only grow, so that a run that goes on need not
pay again.

    magic, then records: length of the value, checksum of key and value, key, value

A record that was not written to its end is cut off when the file is opened, and so is all that
follows a damaged one. A file holds what came up from one iteration on, until the first draw after a
checkpoint begins the next file; files whose iterations no checkpoint needs are removed.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Self

import xxhash

MAGIC = b"rto journal 1\n"
HEAD = struct.Struct("<Q16s16s")
LIMIT = 32 * 2**30
"""Bytes on the disk; beyond them nothing is added until a checkpoint makes some needless."""
QUEUE = 8
"""Values that may wait to be written."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Extent:
    """Where a value stands."""

    path: Path
    offset: int
    size: int


class Journal:
    """Values in the files of ``folder``, which are encoded and written in a thread of its own.

    Any thread may ask and add. What cannot be written is told and not kept: it costs a later run
    time, and this one nothing.
    """

    def __init__(self, folder: Path, *, first: int, tell: Tell) -> None:
        """``first``: the iteration that the run begins with; ``tell`` hears what was lost."""
        self._folder, self._tell = folder, tell
        folder.mkdir(mode=0o775, exist_ok=True)
        self._places: dict[bytes, Extent] = {}
        for path in self._files():
            self._places |= read_file(path, tell)
        self._taken = set(self._places)
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._running: deque[Future[None]] = deque()
        self._stopped = self._full = False
        files = self._files()
        self._start = int(files[-1].stem) if files else first
        self._file = self._open()

    def __contains__(self, key: bytes) -> bool:
        if key not in self._taken:
            return False
        self.flush()
        return key in self._places

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def get(self, key: bytes) -> bytes | None:
        """The value; None where there is none."""
        if key not in self:
            return None
        place = self._places[key]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            return file.read(place.size)

    def put(self, key: bytes, encode: Callable[[], bytes]) -> None:
        """Add what ``encode`` gives, which the thread calls. A key that is there keeps its own."""
        with self._lock:
            if self._stopped or key in self._taken:
                return
            self._taken.add(key)
        self._submit(lambda: self._append(key, encode()))

    def border(self, iteration: int, checkpoints: Sequence[int]) -> None:
        """``iteration`` is drawn next, and the run has checkpoints of these steps: what was added
        before is brought to the disk, and what a run that goes on from one of the two newest
        does not need is removed."""
        steps = sorted(checkpoints)
        self._submit(lambda: self._turn(iteration, steps))

    def flush(self) -> None:
        """Wait until all that was added is written.

        Raises:
            Exception: what ``encode`` raised.
        """
        with self._lock:
            running, self._running = self._running, deque()
        for each in running:
            each.result()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            self._file.close()

    def _submit(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._running.append(self._thread.submit(work))
            over = [self._running.popleft() for _ in range(len(self._running) - QUEUE)]
        for each in over:
            each.result()

    def _append(self, key: bytes, value: bytes) -> None:
        if self._stopped or self._is_full(HEAD.size + len(value)):
            return
        begin = self._file.seek(0, os.SEEK_END)
        head = HEAD.pack(len(value), _checksum(key, value), key)
        try:
            for part in (head, value):
                _write(self._file, part)
        except OSError as error:
            # The half of a record is cut off when the file is opened again.
            self._stop(error)
            return
        path = Path(self._file.name)
        self._places[key] = Extent(path, begin + HEAD.size, len(value))

    def _is_full(self, more: int) -> bool:
        size = sum(path.stat().st_size for path in self._files()) + more
        if size > LIMIT and not self._full:
            self._tell(f"journal {self._folder} has {size} bytes: nothing is added for now")
        self._full = size > LIMIT
        return self._full

    def _stop(self, error: OSError) -> None:
        if not self._stopped:
            self._stopped = True
            self._tell(f"journal {self._folder}: {error.strerror}: nothing is added to it any more")

    def _turn(self, iteration: int, checkpoints: Sequence[int]) -> None:
        try:
            if not self._stopped:
                os.fsync(self._file.fileno())
                if checkpoints and self._start <= checkpoints[-1] < iteration:
                    self._file.close()
                    self._start = iteration
                    self._file = self._open()
            if checkpoints:
                self._prune(1 + checkpoints[-2:][0])
        except OSError as error:
            self._stop(error)

    def _prune(self, needed: int) -> None:
        """Remove the files that end before the iteration ``needed``."""
        for path, following in pairwise(self._files()):
            if int(following.stem) <= needed and int(path.stem) != self._start:
                gone = {key for key, place in self._places.items() if place.path == path}
                with self._lock:
                    self._taken -= gone
                self._places = {k: v for k, v in self._places.items() if k not in gone}
                path.unlink()

    def _open(self) -> BinaryIO:
        file = (self._folder / f"{self._start:08d}.journal").open("ab", buffering=0)
        if file.tell() == 0:
            file.write(MAGIC)
            handle = os.open(self._folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        return file

    def _files(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._folder.glob("[0-9]" * 8 + ".journal"))


def read_file(path: Path, tell: Tell) -> dict[bytes, Extent]:
    """Where the values of a file stand, by key. What is no whole record is cut off."""
    places: dict[bytes, Extent] = {}
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        end = len(MAGIC) if file.read(len(MAGIC)) == MAGIC else 0
        while 0 < end < size:
            head = file.read(HEAD.size)
            length, checksum, key = (
                HEAD.unpack(head) if len(head) == HEAD.size else (size, b"", b"")
            )
            begin, following = end + HEAD.size, end + HEAD.size + length
            whole = following <= size and _checksum(key, file.read(length)) == checksum
            if not whole and following < size:
                tell(f"journal {path} is damaged at byte {end}: what follows is not used")
            if not whole:
                break
            places[key] = Extent(path, begin, length)
            end = following
        if end == 0 and size >= len(MAGIC):
            tell(f"{path} is no journal of this version: it is not used")
        file.truncate(end)
    return places


def _checksum(key: bytes, value: bytes) -> bytes:
    whole = xxhash.xxh3_128(key)
    whole.update(value)
    return whole.digest()


def _write(file: BinaryIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
