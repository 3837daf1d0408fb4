"""A checkpoint, and the ways in which a disk or a person can spoil it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from rto.training.checkpoint import MANIFEST, STATE, CheckpointStore
from rto.training.identity import Identity

IDENTITY = Identity("ppo", {"train.seed": 1}, {"data.dataset": [["rows.jsonl", "1f"]]})
Spoil = Callable[[Path], None]
"""Given the newest of two checkpoints, the other one beside it."""

GARBAGE = (
    b"", b"\0", b"{", b"[]", b"null", b"1", b'"text"', b"\xff\xfe{}", b"{}", b"not JSON",
    b"[" * 10**5,
    b'{"schema": 2}', b'{"schema": 2, "files": []}', b'{"schema": 2, "files": null}',
    b'{"schema": 2, "files": {"state.json": null}}', b'{"schema": 2, "files": {"state.json": {}}}',
    b'{"schema": 2, "files": {}}', b'{"schema": 1, "files": {}}',
    b'{"schema": 2, "files": {"a": [1]}}',
    b'{"step": 2, "state": {}, "identity": {}}',
    b'{"step": 2, "state": [], "identity": {"method": ""}}',
    b'{"step": "2", "state": {}, "identity": {"method": "ppo"}}', b'{"step": 1e999}',
    b'{"step": true, "state": {}, "identity": {"method": "ppo"}}',
    b'{"step": 2, "state": {}, "identity": {"method": "ppo", "settings": 3}}',
    b'{"step": 2, "state": {}, "identity": {"method": "ppo", "unknown": 3}}',
    b'{"step": 7, "state": {}, "identity": {"method": "ppo"}}',
)  # fmt: skip


def store(root: Path) -> CheckpointStore:
    return CheckpointStore(root, identity=IDENTITY, max_num=3)


def write(root: Path, step: int) -> Path:
    """With the files of two ranks."""
    checkpoints = store(root)
    folder = checkpoints.begin(step) / "policy" / "state"
    folder.mkdir(parents=True)
    for rank in range(2):
        state = {"weights": torch.arange(64.0) * (step + 1), "step": torch.tensor(step)}
        torch.save(state, folder / f"zero_rank_{rank}_optim_states.pt")
    return checkpoints.commit(step, {"adapted": {"kl_coef": 0.1 * step}})


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rehashed(folder: Path) -> None:
    """A manifest that says of the files what they are now."""
    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents(folder).items()
        if name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"schema": 2, "files": files}))


def spoils(rng: random.Random, names: list[str]) -> Iterator[tuple[str, Spoil]]:
    """(name, how): some of each kind for each file."""
    for name in names:
        for number in range(16):
            yield f"flip {name} {number}", _flip(name, rng.random(), rng.randrange(8))
        for number in range(8):
            yield f"truncate {name} {number}", _truncate(name, rng.random())
        yield f"delete {name}", lambda folder, name=name: (folder / name).unlink()
        yield f"folder {name}", _as_folder(name)
        yield f"dangling {name}", _dangling(name)
        yield f"longer {name}", lambda folder, name=name: _append(folder / name)
        yield f"of another step {name}", _from_older(name)
        for other in names:
            if other > name:
                yield f"swap {name} {other}", _swap(name, other)
    for number, garbage in enumerate(GARBAGE):
        yield f"manifest {number}", lambda folder, g=garbage: _put(folder / MANIFEST, g)
        yield f"state {number}", lambda folder, g=garbage: _put(folder / STATE, g)
        yield f"rehashed state {number}", lambda folder, g=garbage: _rehashed_state(folder, g)
    yield "a file more", lambda folder: _put(folder / "policy" / "more.pt", b"x")
    yield "all files gone", lambda folder: (shutil.rmtree(folder), folder.mkdir())[1]
    yield "a name above", lambda folder: _name_above(folder)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _append(path: Path) -> None:
    _put(path, path.read_bytes() + b"\0")


def _flip(name: str, place: float, bit: int) -> Spoil:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        _put(folder / name, bytes(content))

    return spoil


def _truncate(name: str, share: float) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        _put(folder / name, content[: int(share * len(content))])

    return spoil


def _as_folder(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def _dangling(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / "nowhere")

    return spoil


def _from_older(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        older = min(folder.parent.glob("step_*"))
        _put(folder / name, (older / name).read_bytes())

    return spoil


def _swap(first: str, second: str) -> Spoil:
    def spoil(folder: Path) -> None:
        contents = (folder / first).read_bytes(), (folder / second).read_bytes()
        _put(folder / second, contents[0])
        _put(folder / first, contents[1])

    return spoil


def _rehashed_state(folder: Path, content: bytes) -> None:
    _put(folder / STATE, content)
    rehashed(folder)


def _name_above(folder: Path) -> None:
    """The other checkpoint's file, by a manifest that names it."""
    outside = min(folder.parent.glob("step_*")) / STATE
    content = outside.read_bytes()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][f"../{outside.parent.name}/{STATE}"] = {
        "size": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    _put(folder / MANIFEST, json.dumps(manifest).encode())
