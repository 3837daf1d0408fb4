"""Writing to storage that may be full, read-only or gone; folders that are replaced as a whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rto.errors import PASSING, RtoError, StorageFailed

FULL = 32 << 20
"""Free bytes below which a disk counts as full."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LOST = frozenset({errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN})
_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers tell the number of an error."""


class writing:
    """What fails inside because the storage of ``folder`` does becomes one line, which names the
    folder and its free bytes. ``needs`` are those that are to be written, 0 if nobody knows.

    Raises:
        StorageFailed: the storage is full, read-only or gone.
    """

    def __init__(self, folder: Path, needs: int = 0) -> None:
        self.folder = folder
        self.needs = needs

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: object
    ) -> None:
        if cause is None or isinstance(cause, RtoError | PASSING):
            return
        problem = storage_problem(cause, self.folder, self.needs)
        if problem:
            raise StorageFailed(problem) from cause


def storage_problem(error: BaseException, folder: Path, needs: int = 0) -> str:
    """What is wrong with the storage of ``folder`` that explains the error; empty if nothing is.

    Not every library says so: of one that does not, the storage itself is asked.
    """
    numbers = set(_numbers(error))
    if numbers & NO_SPACE:
        return _full(folder, needs)
    lost = numbers & LOST
    if lost:
        return f"{folder} cannot be written to: {os.strerror(min(lost))}"
    if not folder.is_dir():
        return f"{folder} is gone"
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return f"{folder} cannot be written to: {os.strerror(errno.EROFS)}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written to: {os.strerror(errno.EACCES)}"
    return _full(folder, needs) if shutil.disk_usage(folder).free < max(FULL, needs) else ""


def _numbers(error: BaseException) -> Iterator[int]:
    """The system's numbers of the error and of those behind it."""
    seen = [error]
    for each in seen:
        if isinstance(each, OSError) and each.errno is not None:
            yield each.errno
        text = str(each)
        yield from (int(number) for number in _RUST.findall(text))
        yield from (number for number in NO_SPACE | LOST if os.strerror(number) in text)
        # A remote error of Ray holds its cause in an attribute.
        behind = each.__cause__, each.__context__, vars(each).get("cause")
        seen += [one for one in behind if isinstance(one, BaseException) and one not in seen]


def _full(folder: Path, needs: int) -> str:
    place = next(each for each in (folder, *folder.parents) if each.exists())
    asked = f", {size(needs)} are needed" if needs else ""
    return f"the disk of {folder} is full: {size(shutil.disk_usage(place).free)} are free{asked}"


def size(count: int) -> str:
    """Of so many bytes, as people say it."""
    for unit, scale in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << scale:
            return f"{count / (1 << scale):.1f} {unit}"
    return f"{count} bytes"


def remove(path: Path) -> None:
    """A file, a folder with all that is in it, or a link without what it points to; or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_folder(draft: Path, target: Path) -> None:
    """Give ``draft`` the name of ``target``, which may be there: as a folder, or as a link, whose
    own folder is left alone. A crash leaves the older one, or both, under a name that
    ``put_back`` knows."""
    aside = _aside(target)
    if os.path.lexists(target):
        remove(aside)
        target.rename(aside)
    draft.rename(target)
    remove(aside)


@contextmanager
def drafted(target: Path) -> Iterator[Path]:
    """The path of a folder to write, which takes the place of ``target`` when the block ends, and
    is removed if it fails.

    Raises:
        StorageFailed: it cannot be written; ``target`` is as it was.
    """
    draft = target.with_name(f"{target.name}.tmp")
    with writing(target.parent):
        remove(draft)
        try:
            yield draft
            replace_folder(draft, target)
        finally:
            # Where it has taken the place of ``target``, nothing is left of it.
            shutil.rmtree(draft, ignore_errors=True)


def put_back(target: Path) -> None:
    """Undo what a crash left of ``replace_folder``."""
    aside = _aside(target)
    if os.path.lexists(aside) and not os.path.lexists(target):
        aside.rename(target)
    remove(aside)


def _aside(target: Path) -> Path:
    return target.with_name(f"{target.name}.old")
