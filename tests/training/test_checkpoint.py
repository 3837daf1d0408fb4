from __future__ import annotations

import errno
import hashlib
import json
import random
import shutil
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import damaged
import pytest

from rto.errors import StorageFailed, UserError
from rto.training.checkpoint import CheckpointStore, find_damage
from rto.training.identity import Identity

IDENTITY = Identity(method="rto", settings={"train.seed": 1}, files={"data.dataset": [["a", "x"]]})


def store(root: Path, max_num: int = 3, allow: Sequence[str] = (), **changes) -> CheckpointStore:
    identity = replace(IDENTITY, **changes)
    return CheckpointStore(root, identity=identity, max_num=max_num, allow=allow)


def write(checkpoints: CheckpointStore, step: int) -> Path:
    directory = checkpoints.begin(step)
    (directory / "actor").mkdir()
    (directory / "actor" / "rank0.pt").write_bytes(bytes(range(256)) * step)
    return checkpoints.commit(step, {"iteration": step, "kl_coef": 0.1 * step})


def test_round_trip(tmp_path: Path) -> None:
    assert store(tmp_path).latest() is None
    path = write(store(tmp_path), 12)
    found = store(tmp_path).latest()
    assert found is not None
    assert found.path == path == tmp_path / "step_00000012"
    assert (found.step, found.warnings) == (12, ())
    assert found.state == {"iteration": 12, "kl_coef": 0.1 * 12}


def test_prunes_the_oldest_and_never_the_one_just_written(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, max_num=2)
    for step in (1, 2, 10):
        write(checkpoints, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000002", "step_00000010"]
    write(checkpoints, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003", "step_00000010"]


def test_a_step_can_be_written_again(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    write(checkpoints, 4)
    checkpoints.begin(4)
    path = checkpoints.commit(4, {"again": True})
    found = checkpoints.latest()
    assert found is not None
    assert found.state == {"again": True}
    assert not (path / "actor").exists()


def test_a_crash_before_commit_leaves_the_older_one(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    write(checkpoints, 1)
    (checkpoints.begin(2) / "half").write_text("written")
    found = store(tmp_path).latest()
    assert found is not None
    assert found.step == 1
    assert list(checkpoints.begin(3).iterdir()) == []
    assert not (tmp_path / "tmp_00000002").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["actor/rank0.pt", "state.json", "manifest.json"])
def test_falls_back_from_a_damaged_file(tmp_path: Path, damage, name: str) -> None:
    checkpoints = store(tmp_path)
    write(checkpoints, 1)
    broken = write(checkpoints, 2)
    if (damage, name) == (truncate, "manifest.json"):
        truncate(broken / name)  # the last byte of a JSON file is a newline nobody needs
    damage(broken / name)
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    (warning,) = found.warnings
    assert str(broken) in warning
    assert name in warning or name == "manifest.json"


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = write(store(tmp_path), 1) / "actor" / "rank0.pt"
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 97):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert find_damage(tmp_path / "step_00000001") is not None
    path.write_bytes(content)
    assert find_damage(tmp_path / "step_00000001") is None


def test_never_starts_over_silently_when_all_are_damaged(tmp_path: Path) -> None:
    flip(write(store(tmp_path), 1) / "state.json")
    with pytest.raises(UserError, match=r"step_00000001.*no intact checkpoint"):
        store(tmp_path).latest()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "ppo"}, "method rto, this run ppo"),
        ({"settings": {"train.seed": 2}}, "train.seed 1, this run 2"),
        ({"files": {"data.dataset": [["b", "y"]]}}, "data.dataset a, this run b"),
        ({"files": {"data.dataset": [["a", "y"]]}}, "data.dataset a with other content"),
        ({"files": {"data.dataset": []}}, "data.dataset a, this run none"),
    ],
)
def test_refuses_another_run_and_names_both_values(
    tmp_path: Path, changes: dict, said: str
) -> None:
    write(store(tmp_path), 1)
    with pytest.raises(UserError) as caught:
        store(tmp_path, **changes).latest()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_differences_stand_in_one_line_with_the_flag_that_allows_them(tmp_path: Path) -> None:
    write(store(tmp_path), 1)
    changes = {"settings": {"train.seed": 2}, "files": {"data.dataset": [["b", "y"]]}}
    with pytest.raises(UserError, match="--ckpt.allow train.seed,data.dataset$"):
        store(tmp_path, **changes).latest()
    with pytest.raises(UserError, match=r"made with data.dataset a, .*--ckpt.allow data.dataset$"):
        store(tmp_path, allow=["train.seed"], **changes).latest()
    found = store(tmp_path, allow=["train.seed", "data.dataset"], **changes).latest()
    assert found is not None
    assert found.step == 1


def test_what_a_moved_file_or_an_unknown_setting_is(tmp_path: Path) -> None:
    """Equal content under another name is the same data; a new setting has no value to compare."""
    write(store(tmp_path), 1)
    moved = {"data.dataset": [["/elsewhere/a", "x"]]}
    assert store(tmp_path, settings={"train.new": 1}, files=moved).latest() is not None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train.sed", "did you mean train.seed"),
        ("zzz", "nothing that a checkpoint compares"),
        ("actor.adam.lr", "saved with the weights and the optimizer"),
        ("ds.lora.rank", "saved with the weights"),
        ("method", "saved with the weights"),
    ],
)
def test_a_name_that_cannot_be_allowed_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"ckpt.allow {name}: .*{said}"):
        store(tmp_path, allow=[name])


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_one_checkpoint_is_kept_and_it_is_the_one_just_written(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    checkpoints = store(tmp_path, max_num=1)
    for step in order:
        written = write(checkpoints, step)
        assert list(tmp_path.iterdir()) == [written]
    assert find_damage(tmp_path / f"step_{order[-1]:08d}") is None


def test_no_checkpoint_to_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ckpt.max_num is 0: must be 1 or more"):
        store(tmp_path, max_num=0)


def test_a_file_that_its_writer_knows_is_not_read_again(tmp_path: Path) -> None:
    """Its digest is the writer's: what came to the disk differently is found when it is opened."""
    checkpoints = store(tmp_path)
    folder = checkpoints.begin(1)
    for name in ("known", "other"):
        (folder / name).write_bytes(b"on the disk")
    meant = hashlib.sha256(b"in  memory ").hexdigest()
    path = checkpoints.commit(1, {}, {str(folder / "known"): {"size": 11, "sha256": meant}})
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert listed["known"]["sha256"] == meant
    assert listed["other"]["sha256"] == hashlib.sha256(b"on the disk").hexdigest()
    assert find_damage(path) == "known differs from what was written (SHA-256)"


def test_the_steps_of_what_is_committed_are_told_in_order(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    for step in (3, 12):
        write(checkpoints, step)
    checkpoints.begin(14)
    assert checkpoints.steps() == [3, 12]


def test_a_sample_of_what_spoils_a_checkpoint_is_found(tmp_path: Path) -> None:
    """All of it: tests/faults/test_damage.py."""
    good = tmp_path / "good"
    damaged.write(good, 1)
    newest = damaged.write(good, 2)
    every = list(damaged.spoils(random.Random(3), sorted(damaged.contents(newest))))
    for name, spoil in every[::9]:
        root = tmp_path / "spoilt"
        shutil.copytree(good, root)
        spoil(root / newest.name)
        found = damaged.store(root).latest()
        assert found is not None
        assert (found.step, len(found.warnings)) == (1, 1), name
        shutil.rmtree(root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"step": 7, "state": {}}, "state.json is of step 7"),
        ({"step": 2, "state": []}, "holds something else than a state"),
        ({"state": {}}, "state.json is unreadable"),
    ],
)
def test_a_state_is_looked_at_whatever_its_manifest_says(
    tmp_path: Path, content: dict[str, object], said: str
) -> None:
    newest = damaged.write(tmp_path, 2)
    (newest / "state.json").write_text(json.dumps({"identity": {"method": "ppo"}, **content}))
    damaged.rehashed(newest)
    assert said in str(find_damage(newest))


def test_a_file_more_and_a_file_outside_are_damage(tmp_path: Path) -> None:
    newest = damaged.write(tmp_path, 2)
    (newest / "more").write_text("x")
    assert find_damage(newest) == "more is not in manifest.json"
    (newest / "more").rename(tmp_path / "more")
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["../more"] = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert find_damage(newest) == "'../more' is missing"


def test_what_was_begun_and_not_committed_is_discarded(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    path = write(checkpoints, 1)
    (checkpoints.begin(2) / "half").write_text("x")
    checkpoints.discard()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_has_gone_is_not_made_anew(tmp_path: Path) -> None:
    """It would be on another disk, without the checkpoints from before."""
    root = tmp_path / "checkpoints"
    root.mkdir()
    checkpoints = store(root)
    root.rmdir()
    with pytest.raises(StorageFailed, match=f"^{root} is gone$"):
        checkpoints.begin(1)
    assert not root.exists()


@pytest.mark.parametrize("call", ["begin", "commit"])
def test_storage_that_fails_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    checkpoints = store(tmp_path)
    path = write(checkpoints, 1)

    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "begin":
        monkeypatch.setattr(Path, "mkdir", full)
    else:
        checkpoints.begin(2)
        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageFailed, match=f"^the disk of {tmp_path} is full: .* are free$"):
        checkpoints.begin(2) if call == "begin" else checkpoints.commit(2, {})
    monkeypatch.undo()
    checkpoints.discard()
    assert list(tmp_path.iterdir()) == [path]
    assert find_damage(path) is None


@pytest.mark.parametrize(("kept", "coming"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_a_disk_without_room_for_what_is_to_come_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, coming: int
) -> None:
    """Three are kept, and a fourth is written before the oldest is removed."""
    checkpoints = store(tmp_path)
    assert checkpoints.shortage() == checkpoints.asks() == ""
    path = [write(checkpoints, step) for step in range(kept)][-1]
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    usage = namedtuple("usage", "free")
    for free, told in ((coming * size, False), (coming * size - 1, True)):
        there = partial(usage, free)
        monkeypatch.setattr("rto.training.checkpoint.shutil.disk_usage", lambda path, f=there: f())
        assert ("ckpt.max_num 3" in checkpoints.shortage()) is told
    assert checkpoints.asks().startswith("; the last checkpoint has ")
