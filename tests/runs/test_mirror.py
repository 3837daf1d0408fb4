"""Checkpoints and exports at a URL: copied while a run goes on, and gone on with elsewhere."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rto.errors import RunFailed, UserError
from rto.runs import mirror as mirror_module
from rto.runs.mirror import Mirror, mirrored, open_mirror
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Ckpt


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an object store, and of a folder."""
    MemoryFileSystem.store.clear()
    yield "memory://bucket/run" if request.param == "memory" else f"file://{tmp_path}/copy"
    MemoryFileSystem.store.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    place.mkdir()
    (place / "metrics.jsonl").write_text("{}\n")
    return place


def commit(folder: Path, step: int, weights: str = "w") -> None:
    """As a checkpoint appears: all at once."""
    draft = folder / "checkpoints" / f"tmp_{step:08d}"
    (draft / "policy").mkdir(parents=True)
    (draft / "policy" / "state").write_text(weights)
    (draft / "manifest.json").write_text(weights)
    draft.rename(folder / "checkpoints" / f"step_{step:08d}")


def export(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "model.safetensors").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_another_machine_goes_on_with_what_was_copied(
    url: str, folder: Path, tmp_path: Path
) -> None:
    commit(folder, 3)
    commit(folder, 7, "newer")
    export(folder, "last", "exported")
    with mirrored(url, folder):
        pass
    other = tmp_path / "other"
    open_mirror(url, other, resume=True)
    assert contents(other) == {
        "checkpoints/step_00000007/manifest.json": "newer",
        "checkpoints/step_00000007/policy/state": "newer",
        "last/model.safetensors": "exported",
        "metrics.jsonl": "{}\n",
    }


def test_what_the_run_folder_has_is_not_fetched_again(
    url: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(folder, 3)
    Mirror(url, folder).copy()
    (folder / "checkpoints" / "step_00000003" / "policy" / "state").write_text("mine")
    open_mirror(url, folder, resume=True)
    assert contents(folder)["checkpoints/step_00000003/policy/state"] == "mine"
    assert capsys.readouterr().out == ""
    shutil.rmtree(folder / "checkpoints")
    open_mirror(url, folder, resume=True)
    assert contents(folder)["checkpoints/step_00000003/policy/state"] == "w"
    assert f"step_00000003 fetched from {url}" in capsys.readouterr().out


def test_the_copy_has_what_the_folder_has_and_no_more(url: str, folder: Path) -> None:
    commit(folder, 3)
    export(folder, "best", "first")
    (folder / "logs").mkdir()
    (folder / "logs" / "ray.log").write_text("private")
    copy = Mirror(url, folder)
    copy.copy()
    shutil.rmtree(folder / "checkpoints" / "step_00000003")
    commit(folder, 4)
    (folder / "checkpoints" / "tmp_00000005").mkdir()
    (folder / "checkpoints" / "tmp_00000005" / "half").touch()
    export(folder, "best", "second")
    copy.copy()
    assert sorted(copy.found()) == [
        "best/model.safetensors",
        "checkpoints/step_00000004/manifest.json",
        "checkpoints/step_00000004/policy/state",
        "metrics.jsonl",
    ]


def test_a_file_is_copied_once_and_again_when_it_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MemoryFileSystem.store.clear()
    commit(folder, 3)
    copy, put = Mirror("memory://once", folder), list[str]()
    real = copy._files.put_file

    def noted(lpath: str, rpath: str) -> None:
        put.append(Path(lpath).name)
        real(lpath, rpath)

    monkeypatch.setattr(copy._files, "put_file", noted)
    copy.copy()
    assert put == ["state", "manifest.json", "metrics.jsonl"], "the manifest after its files"
    (folder / "metrics.jsonl").write_text("{}\n{}\n")
    copy.copy()
    assert put[3:] == ["metrics.jsonl"]


def test_a_checkpoint_whose_manifest_did_not_arrive_is_none(
    url: str, folder: Path, tmp_path: Path
) -> None:
    commit(folder, 3)
    commit(folder, 4)
    copy = Mirror(url, folder)
    copy.copy()
    copy._files.rm_file(str(copy._root / "checkpoints/step_00000004/manifest.json"))
    open_mirror(url, tmp_path / "other", resume=True)
    assert "checkpoints/step_00000003/policy/state" in contents(tmp_path / "other")


def test_checkpoints_are_copied_while_the_run_goes_on(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "LOOK_SECONDS", 0.01)
    copied = Mirror(url, folder)

    def arrived(step: int) -> bool:
        return f"checkpoints/step_{step:08d}/manifest.json" in copied.found()

    with mirrored(url, folder):
        for step in (3, 4):
            commit(folder, step)
            wait_until(partial(arrived, step))
    assert [thread.name for thread in threading.enumerate()].count("mirror") == 0


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def diverging(url: str, folder: Path) -> None:
    with mirrored(url, folder):
        commit(folder, 3)
        raise RuntimeError("diverged")


def test_a_run_that_fails_leaves_its_checkpoints_at_the_url(url: str, folder: Path) -> None:
    with pytest.raises(RuntimeError, match="diverged"):
        diverging(url, folder)
    assert "checkpoints/step_00000003/manifest.json" in Mirror(url, folder).found()


def test_a_copy_that_fails_is_told_and_fails_the_run_that_did_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: object, lpath: str, rpath: str) -> None:
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    line = "ckpt.mirror memory://bucket/run: copying failed: PermissionError: 403 Forbidden; check"
    with pytest.raises(RunFailed) as caught, mirrored("memory://bucket/run", folder):
        commit(folder, 3)
    assert str(caught.value).startswith(line)
    assert line in capsys.readouterr().out, "as soon as it happens"
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(RuntimeError, match="diverged"):
        diverging("memory://bucket/run", folder)


def test_a_new_run_does_not_write_over_another(url: str, folder: Path, tmp_path: Path) -> None:
    open_mirror(url, folder, resume=False)
    Mirror(url, folder).copy()
    with pytest.raises(UserError, match="already holds files: set ckpt.load_enable to go on"):
        open_mirror(url, tmp_path / "other", resume=False)
    open_mirror(None, folder, resume=False)


def test_a_file_system_that_is_not_there_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match="ckpt.mirror nothing://x: ValueError: .*; check the URL"):
        open_mirror("nothing://x", folder, resume=True)


@pytest.mark.parametrize("text", ["bucket/run", "/tmp/copy", "s3:/bucket", "://x"])
def test_a_mirror_is_a_url(text: str) -> None:
    with pytest.raises(UserError, match="ckpt.mirror is .*: write a URL, as in s3://bucket/run"):
        RunConfig(ckpt=Ckpt(mirror=text))
