from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rto.errors import UserError
from rto.training.states import kept_in_memory, load_state, without_code


class Known:
    """Stands for a class of DeepSpeed."""

    def __init__(self) -> None:
        self.scale = 2.0


class Payload:
    """Pickled, it is a call: here of ``Path.touch``, in an attack of anything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Files:
    """DeepSpeed's way to its files."""

    zipfile_serialization = True
    save: Any
    load: Any


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_plain_values_and_known_classes_are_read(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "state.pt"
    state = {"weight": torch.arange(3.0), "lr": [0.1, None], "scaler": Known()}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = load_state(path, [Known])
    assert torch.equal(found["weight"], state["weight"])
    assert (found["lr"], found["scaler"].scale) == ([0.1, None], 2.0)
    with pytest.raises(UserError, match="nothing of it was run.*Known"):
        load_state(path, [])


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    path, canary = tmp_path / "state.pt", tmp_path / "canary"
    state = {"weight": torch.zeros(2), "extra": Payload(canary)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="nothing of it was run") as refused:
        load_state(path, [Known])
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not canary.exists()
    path.write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(UserError):
        load_state(path, [Known])
    assert not canary.exists()
    assert pickle.loads(path.read_bytes()) is None, "the payload works"
    assert canary.exists()


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    with pytest.raises(UserError, match="is missing"):
        load_state(path, [])
    whole = io.BytesIO()
    torch.save({"weight": torch.zeros(100)}, whole)
    for content in (b"", b"garbage", whole.getvalue()[:-300], whole.getvalue()[:200]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"state\.pt"):
            load_state(path, [])


def test_deepspeeds_loads_are_ours_within_and_its_own_after(tmp_path: Path) -> None:
    files, path = Files(), tmp_path / "state.pt"
    torch.save(Payload(tmp_path / "canary"), path)
    with without_code(files, []), pytest.raises(UserError):
        files.load(str(path), map_location="cpu")
    assert not vars(files)
    assert not (tmp_path / "canary").exists()


def test_what_deepspeed_saves_is_kept_in_memory_within(tmp_path: Path) -> None:
    files, path = Files(), tmp_path / "state.pt"
    with kept_in_memory(files) as kept:
        files.save({"step": 3}, str(path))
    assert not path.exists()
    assert not vars(files)
    (file,) = kept
    assert file.path == path
    path.write_bytes(file.content.getvalue())
    assert load_state(path, []) == {"step": 3}
