"""Checkpoints that are whole or absent.

Ranks write into a temporary directory; ``commit`` adds a manifest of every file's size and
SHA-256, flushes all of it to disk and renames. A crash at any moment leaves the older ones intact.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rto.crash import crash_point
from rto.errors import StorageFailed, UserError, told
from rto.storage import remove, size, writing
from rto.training.identity import FIXED, Identity, check_allowed, differences
from rto.training.writer import Fingerprint

SCHEMA = 2
MANIFEST = "manifest.json"
STATE = "state.json"
NOT_THIS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a file raises that holds something else."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. ``warnings`` name the newer ones that were passed over, and why."""

    path: Path
    step: int
    state: Mapping[str, object]
    warnings: tuple[str, ...] = ()


class CheckpointStore:
    """The checkpoints of one run, in directories ``step_00000012`` under ``root``.

    ``allow`` names the settings that may differ from a checkpoint's.
    """

    def __init__(
        self, root: Path, *, identity: Identity, max_num: int, allow: Sequence[str] = ()
    ) -> None:
        check_allowed(allow, identity)
        if max_num < 1:
            raise UserError(f"ckpt.max_num is {max_num}: must be 1 or more")
        self._root = root
        self._identity = identity
        self._max_num = max_num
        self._allow = frozenset(allow)
        self._there = root.is_dir()

    def begin(self, step: int) -> Path:
        """An empty directory for the ranks to write into; leftovers of a crash are removed.

        Raises:
            StorageFailed: there can be none.
        """
        with self.writing():
            if self._there and not self._root.is_dir():
                raise StorageFailed(f"{self._root} is gone")
            self._root.mkdir(parents=True, exist_ok=True)
            self._there = True
            self.discard()
            path = self._temporary(step)
            path.mkdir()
        crash_point("checkpoint.begun")
        return path

    def writing(self) -> writing:
        """The guard around what is written into a checkpoint."""
        return writing(self._root)

    def discard(self) -> None:
        """Remove what was begun and not committed."""
        for leftover in self._root.glob("tmp_*"):
            remove(leftover)

    def asks(self) -> str:
        """The end of a line on a checkpoint that could not be written: how large it would be, by
        the last one; empty before the first."""
        newest = self._newest_size()
        return f"; the last checkpoint has {size(newest)}" if newest else ""

    def shortage(self) -> str:
        """A line to warn with where the disk has no room for the checkpoints to come: those that
        are still to be kept beside the ones there, and the one that is written before the oldest is
        removed. Empty where it has, or where there is none to judge by."""
        coming = max(0, self._max_num - len(self._committed())) + 1
        needs, free = coming * self._newest_size(), shutil.disk_usage(self._root).free
        if free >= needs:
            return ""
        return (
            f"the disk of {self._root} will be full: {size(free)} are free, the checkpoints to "
            f"come need {size(needs)} (ckpt.max_num {self._max_num}): make room, or keep fewer"
        )

    def _newest_size(self) -> int:
        """Bytes of the last checkpoint; 0 before the first."""
        for path in self._committed():
            return sum(file.stat().st_size for file in _files(path))
        return 0

    def commit(
        self,
        step: int,
        state: Mapping[str, object],
        written: Mapping[str, Fingerprint] = MappingProxyType({}),
    ) -> Path:
        """Make what was written since ``begin`` the newest checkpoint; prune the oldest.

        ``written``: files, by path, that whoever wrote them has brought to the disk and knows
        already.

        Raises:
            StorageFailed: the checkpoints from before are as they were.
        """
        with self.writing():
            return self._commit(step, state, written)

    def _commit(
        self, step: int, state: Mapping[str, object], written: Mapping[str, Fingerprint]
    ) -> Path:
        temporary, final = self._temporary(step), self._root / _name(step)
        content = {
            "schema": SCHEMA,
            "step": step,
            "identity": dataclasses.asdict(self._identity),
            "state": dict(state),
        }
        crash_point("checkpoint.before_state")
        _write_json(temporary / STATE, content)
        files = {
            path.relative_to(temporary).as_posix(): written.get(str(path)) or _fingerprint(path)
            for path in _files(temporary)
        }
        crash_point("checkpoint.before_manifest")
        _write_json(temporary / MANIFEST, {"schema": SCHEMA, "files": files})
        for path in (temporary, *temporary.rglob("*")):
            if str(path) not in written:
                _fsync(path)
        if final.exists():
            final.rename(self._root / f"{temporary.name}_older")
        crash_point("checkpoint.before_commit")
        temporary.rename(final)
        _fsync(self._root)
        crash_point("checkpoint.committed")
        self.discard()
        for old in [path for path in self._committed() if path != final][self._max_num - 1 :]:
            remove(old)
            crash_point("checkpoint.pruned")
        return final

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact; None where there are none at all."""
        warnings: list[str] = []
        for path in self._committed():
            damage = find_damage(path)
            if damage is None:
                return self._opened(path, tuple(warnings))
            warnings.append(f"checkpoint {path} is damaged and passed over: {damage}")
        if warnings:
            raise UserError(
                "; ".join(warnings) + "; no intact checkpoint is left: restore one, or remove "
                f"{self._root} to start over"
            )
        return None

    def _opened(self, path: Path, warnings: tuple[str, ...]) -> Checkpoint:
        content = json.loads((path / STATE).read_text())
        changes = differences(Identity(**content["identity"]), self._identity)
        refused = {name: told for name, told in changes.items() if name not in self._allow}
        if refused:
            free = [name for name in refused if FIXED.fullmatch(name) is None]
            allowed = f", or allow it with --ckpt.allow {','.join(free)}" if free else ""
            listed = "; ".join(f"{name} {told}" for name, told in refused.items())
            raise UserError(
                f"checkpoint {path} was made with {listed}: go on with the checkpoint's settings, "
                f"choose another ckpt.output_dir{allowed}"
            )
        return Checkpoint(path, content["step"], content["state"], warnings)

    def steps(self) -> list[int]:
        """Of the checkpoints that are there, oldest first."""
        return [int(path.name.removeprefix("step_")) for path in reversed(self._committed())]

    def _temporary(self, step: int) -> Path:
        return self._root / f"tmp_{step:08d}"

    def _committed(self) -> list[Path]:
        """Newest first."""
        return sorted(self._root.glob("step_" + "[0-9]" * 8), reverse=True)


def find_damage(path: Path) -> str | None:
    """What is wrong with a committed checkpoint; None when every file is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest["schema"] != SCHEMA:
            return f"{MANIFEST} has schema {manifest['schema']}, this program reads {SCHEMA}"
        files = {name: (want["size"], want["sha256"]) for name, want in manifest["files"].items()}
    except NOT_THIS as error:
        return f"{MANIFEST} is unreadable ({told(error)})"
    if STATE not in files:
        return f"{MANIFEST} does not list {STATE}"
    there = {file.relative_to(path).as_posix(): file for file in _files(path)}
    for name in sorted(there.keys() - files.keys() - {MANIFEST}):
        return f"{name} is not in {MANIFEST}"
    for name, (written, sha256) in files.items():
        damage = _file_damage(name, there.get(name), written, sha256)
        if damage is not None:
            return damage
    return _state_damage(path)


def _file_damage(name: str, file: Path | None, written: int, sha256: str) -> str | None:
    if file is None:
        return f"{name!a} is missing"
    found = file.stat().st_size
    if found != written:
        return f"{name} has {found} bytes, written were {written}"
    if _fingerprint(file)["sha256"] != sha256:
        return f"{name} differs from what was written (SHA-256)"
    return None


def _state_damage(path: Path) -> str | None:
    """What is wrong with the content of ``state.json``, whoever wrote it."""
    try:
        content = json.loads((path / STATE).read_bytes())
        identity, step = Identity(**content["identity"]), content["step"]
        parts = identity.settings, identity.files, content["state"]
    except NOT_THIS as error:
        return f"{STATE} is unreadable ({told(error)})"
    if not all(isinstance(part, dict) for part in parts):
        return f"{STATE} holds something else than a state"
    return None if path.name == _name(step) else f"{STATE} is of step {step!r:.40}"


def _name(step: object) -> str:
    """Of a committed checkpoint's folder."""
    return f"step_{step:08d}" if type(step) is int else ""


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _fingerprint(path: Path) -> Fingerprint:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
