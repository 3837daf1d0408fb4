"""Files that are written from host memory while training goes on."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rto.storage import writing


class Fingerprint(TypedDict):
    """By which a file is known again."""

    size: int
    sha256: str


@dataclass(frozen=True)
class HostFile:
    """A file that is not on the disk yet."""

    path: Path
    content: io.BytesIO


class FileWriter:
    """One batch of files at a time, on a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[dict[str, Fingerprint]] | None = None

    def start(self, files: Sequence[HostFile]) -> None:
        """Begin to write the files, which are this object's from now on."""
        assert self._writing is None or self._writing.done()
        self._writing = self._thread.submit(_write, list(files))

    def written(self) -> dict[str, Fingerprint] | None:
        """By path, the files of the last ``start``, which are on the disk now; None while they are
        not.

        Raises:
            StorageFailed: they cannot be written.
        """
        if self._writing is None or not self._writing.done():
            return None
        return self._writing.result()


def _write(files: list[HostFile]) -> dict[str, Fingerprint]:
    written: dict[str, Fingerprint] = {}
    while files:
        file = files.pop(0)
        with (
            writing(file.path.parent, needs=file.content.getbuffer().nbytes),
            file.content.getbuffer() as content,
            file.path.open("wb") as target,
        ):
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
            digest = hashlib.sha256(content).hexdigest()
            written[str(file.path)] = {"size": content.nbytes, "sha256": digest}
    return written
