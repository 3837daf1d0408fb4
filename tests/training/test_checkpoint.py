from __future__ import annotations

from pathlib import Path

import pytest

from rto.errors import UserError
from rto.training.checkpoint import CheckpointStore, Identity, find_damage

IDENTITY = Identity(method="rto", model="models/sft", zero_stage=2, num_ranks=2)


def store(root: Path, max_num: int = 3, **changes) -> CheckpointStore:
    return CheckpointStore(
        root, identity=Identity(**{**vars(IDENTITY), **changes}), max_num=max_num
    )


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
    ("name", "value"),
    [("method", "ppo"), ("model", "models/other"), ("zero_stage", 3), ("num_ranks", 4)],
)
def test_refuses_another_run_and_names_both_values(tmp_path: Path, name: str, value) -> None:
    write(store(tmp_path), 1)
    with pytest.raises(UserError) as caught:
        store(tmp_path, **{name: value}).latest()
    message = str(caught.value)
    assert f"{name} {vars(IDENTITY)[name]!r}" in message
    assert repr(value) in message


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
