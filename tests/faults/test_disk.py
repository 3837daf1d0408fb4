"""R11: a disk that is full at every write of a save, and one that is read-only or gone.

The disk is a small tmpfs, which only root can mount. All but one byte count of it is taken by a
file, so that the writes of a save fail one after the other as the room grows.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from fault_runs import NO_RESTARTS, Tiny, about, metrics, run_to_end, same, started, state, tries
from local_group import trainers
from transformers import AutoModelForCausalLM

from rto.cluster.actors import TrainerActor
from rto.errors import StorageFailed
from rto.methods.sft import SFT
from rto.runs.checkpointing import RunCheckpointer
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed
from rto.sections.training import Actor
from rto.tracking.metrics import JsonlWriter
from rto.training.checkpoint import CheckpointStore, find_damage
from rto.training.identity import Identity
from rto.training.ranks import Rank, RankPlace

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


class Disk:
    """A tmpfs of so many MiB."""

    def __init__(self, path: Path, mib: int) -> None:
        self.path = path
        path.mkdir()
        mount("-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path))

    def leave(self, free: int) -> None:
        """Take all but so many bytes, to the page."""
        (self.path / "ballast").unlink(missing_ok=True)
        size = shutil.disk_usage(self.path).free - free
        with (self.path / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))

    def make_room(self) -> None:
        (self.path / "ballast").unlink(missing_ok=True)


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here (root?): {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    made = Disk(path, 64)
    yield made
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def rank(tiny: Tiny) -> Iterator[TrainerActor]:
    """A real rank, with its engine, of this process."""
    path = str(tiny.base)
    config = RunConfig(
        actor=Actor(model_name_or_path=path), ds=DeepSpeed(param_dtype="fp32"), data=Data()
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = RankPlace(0, 1, probe.getsockname(), "cpu")
    actor = TrainerActor()
    actor.rank = Rank("policy", path, config, place, total_steps=10)
    yield actor
    actor.rest()
    dist.destroy_process_group()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def checkpointer(disk: Disk, rank: TrainerActor, behind: bool) -> RunCheckpointer:
    identity = Identity(method="sft", settings={}, files={})
    return RunCheckpointer(
        store=CheckpointStore(disk.path / "checkpoints", identity=identity, max_num=2),
        built=SFT(),
        groups={"policy": trainers("policy", rank)},
        exports=disk.path,
        last_step=100,
        save_steps=1,
        behind=behind,
        warn=lambda text: None,
    )


@pytest.mark.goal("R11", "a disk full after so many bytes of a save: the older one whole, one line")
@pytest.mark.parametrize("behind", [False, True], ids=["at once", "behind"])
def test_a_disk_may_be_full_at_any_byte_of_a_save(
    tally: Any, disk: Disk, rank: TrainerActor, behind: bool
) -> None:
    """Checkpoint and export; with room again the same save succeeds."""
    many = tries(60)
    kept, line = checkpointer(disk, rank, behind), JsonlWriter(disk.path / "metrics.jsonl")
    before = shutil.disk_usage(disk.path).free
    kept.after(0, SFT(), {})
    kept._wait_written()
    needed = before - shutil.disk_usage(disk.path).free
    line.write(0, {"a/b": 1.0})
    for step in range(1, many + 1):
        older = contents(disk.path / "checkpoints"), contents(disk.path / "last")
        disk.leave(needed * (step - 1) // (many - 1))
        wrong, failed = "", ""
        try:
            kept.after(step, SFT(), {})
            kept._wait_written()
        except StorageFailed as error:
            failed = str(error)
        if failed:
            full = contents(disk.path / "checkpoints")
            # After the commit only the export is missing.
            added = {name.split("/")[0] for name in full.keys() - older[0].keys()}
            wrong += "" if older[0].items() <= full.items() else "an older checkpoint changed; "
            wrong += "" if added <= {f"step_{step:08d}"} else f"left {added}; "
            wrong += "" if contents(disk.path / "last") == older[1] else "the export changed; "
            wrong += "" if "is full" in failed and "free" in failed else f"said {failed}; "
        elif step < many // 2:
            wrong += "it had no room and said nothing; "
        names = {path.name for path in disk.path.iterdir()}
        wrong += "" if names == {"checkpoints", "last", "ballast", "metrics.jsonl"} else f"{names}"
        disk.make_room()
        again = replace(checkpointer(disk, rank, behind))
        again.after(step, SFT(), {})
        again._wait_written()
        found = again.store.latest()
        good = found is not None and found.step == step and find_damage(found.path) is None
        wrong += "" if good else "with room it was not written; "
        kept = again
        tally.count(not wrong)
        print(f"{step}: {wrong or 'ok'} {failed}")
    AutoModelForCausalLM.from_pretrained(disk.path / "last")


@pytest.mark.goal("R11", "a full disk while a run logs: no line is half there, and it goes on")
def test_metrics_are_whole_lines(tally: Any, disk: Disk) -> None:
    path = disk.path / "metrics.jsonl"
    many = tries(40)
    for step in range(many):
        writer = JsonlWriter(path, first_iteration=step)
        disk.leave(4096 * (step % 3))
        failed = False
        try:
            for _ in range(1000):
                writer.write(step, {"a/b": 1.0, "c/d": float(step)})
        except StorageFailed:
            failed = True
        ends_whole = path.read_bytes().endswith(b"\n") or path.stat().st_size == 0
        disk.make_room()
        writer.write(step, {"a/b": 2.0})
        writer.close()
        tally.count(failed and ends_whole and metrics(disk.path)[-1]["a/b"] == 2.0)


@pytest.mark.goal("R11", "a run on a full disk: exit code 74, one line, equal once there is room")
@pytest.mark.parametrize("command", ["sft", "train"])
def test_a_run_goes_on_once_there_is_room(
    tally: Any, disk: Disk, tiny: Tiny, tmp_path: Path, command: str
) -> None:
    made = tiny.offline if command == "sft" else tiny.online
    steps = 60 if command == "sft" else 12
    flags = {**made(steps, ckpt__save_steps=1), **NO_RESTARTS}
    whole, parts = tmp_path / "whole", disk.path / "parts"
    run_to_end(command, whole, flags)
    with started(command, parts, flags) as begun:
        begun.wait_for_iterations(2)
        disk.leave(0)
        code, said = begun.end(120)
        print(f"exit code {code}: {said}")
        held = code == 74 and "is full" in said and "last checkpoint" in said
        held = held and not begun.survivors()
    held = held and not list((parts / "checkpoints").glob("tmp_*"))
    disk.make_room()
    held = held and about(parts)["status"] in ("failed", "running")
    run_to_end(command, parts, {**flags, "ckpt.load_enable": "true"})
    assert tally.count(
        held and metrics(parts) == metrics(whole) and same(state(parts), state(whole))
    )


@pytest.mark.goal("R11", "storage that turns read-only or goes: a line with its name, exit code 74")
@pytest.mark.parametrize("fault", ["read-only", "gone"])
def test_storage_that_goes_is_named(tally: Any, disk: Disk, rank: TrainerActor, fault: str) -> None:
    kept = checkpointer(disk, rank, behind=False)
    kept.after(0, SFT(), {})
    if fault == "read-only":
        mount("-o", "remount,ro", str(disk.path))
        said = os.strerror(errno.EROFS)
    else:
        shutil.rmtree(disk.path / "checkpoints")
        said = "is gone"
    try:
        with pytest.raises(StorageFailed, match=said):
            kept.after(1, SFT(), {})
        tally.count(True)
    finally:
        if fault == "read-only":
            mount("-o", "remount,rw", str(disk.path))
