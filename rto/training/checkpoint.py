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
from rto.errors import UserError, told
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

    def begin(self, step: int) -> Path:
        """An empty directory for the ranks to write into; leftovers of a crash are removed."""
        self._root.mkdir(parents=True, exist_ok=True)
        for leftover in self._root.glob("tmp_*"):
            shutil.rmtree(leftover)
        path = self._temporary(step)
        path.mkdir()
        crash_point("checkpoint.begun")
        return path

    def commit(
        self,
        step: int,
        state: Mapping[str, object],
        written: Mapping[str, Fingerprint] = MappingProxyType({}),
    ) -> Path:
        """Make what was written since ``begin`` the newest checkpoint; prune the oldest.

        ``written``: files, by path, that whoever wrote them has brought to the disk and knows
        already.
        """
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
            shutil.rmtree(final)
        crash_point("checkpoint.before_commit")
        temporary.rename(final)
        _fsync(self._root)
        crash_point("checkpoint.committed")
        for old in [path for path in self._committed() if path != final][self._max_num - 1 :]:
            shutil.rmtree(old)
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
    for name, (size, sha256) in files.items():
        if name not in there:
            return f"{name!a} is missing"
        file = there[name]
        found = file.stat().st_size
        if found != size:
            return f"{name} has {found} bytes, written were {size}"
        if _fingerprint(file)["sha256"] != sha256:
            return f"{name} differs from what was written (SHA-256)"
    return _state_damage(path)


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
