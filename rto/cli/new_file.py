"""Places that a command is going to write to, checked before it works."""

from __future__ import annotations

import os
from pathlib import Path

from rto.errors import foreign
from rto.sections.ranges import require


def new_file(flag: str, path: str) -> Path:
    """A file that can be written and is not there yet; nothing is created.

    Raises:
        UserError: it exists, or cannot be made.
    """
    file = writable(flag, path)
    require(not file.exists(), f"{flag} {path}: exists; give another name, or remove it")
    return file


def writable(flag: str, path: str) -> Path:
    """The path with ~ resolved, if something can be made there.

    Raises:
        UserError: its name is too long, or the folder that is there cannot be written to.
    """
    with foreign(f"{flag} {path:.200}: cannot be made", "give another name"):
        place = Path(path).expanduser()
        place.exists()
        folder = next(each for each in place.absolute().parents if each.exists())
    require(
        folder.is_dir() and os.access(folder, os.W_OK | os.X_OK),
        f"{flag} {path}: {folder} is no folder that can be written to",
    )
    return place
