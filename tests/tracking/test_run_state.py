"""run.json and the last line of a run, for every way in which it can end."""

from __future__ import annotations

import json
import os
import signal
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rto.errors import (
    ActorLost,
    ProofError,
    RtoError,
    RunFailed,
    StorageFailed,
    Terminated,
    TrainingDiverged,
    UserError,
)
from rto.tracking.run_folder import RunFolder
from rto.tracking.run_state import RunState


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run") as opened:
        yield opened


def about(folder: RunFolder) -> dict[str, Any]:
    return json.loads((folder.path / "run.json").read_text())


def end(folder: RunFolder, cause: BaseException) -> BaseException:
    """What leaves a run in which ``cause`` is raised."""
    try:
        with RunState(folder, {"method": "sft"}):
            raise cause
    except BaseException as raised:
        return raised
    raise AssertionError(f"{cause!r} was swallowed")


def test_a_run_that_finishes(folder: RunFolder) -> None:
    with RunState(folder, {"method": "sft"}) as state:
        running = about(folder)
        state.finish_with({"eval/accuracy": 0.5})
    assert (running["status"], running["pid"], running["method"]) == ("running", os.getpid(), "sft")
    ended = about(folder)
    assert ended.pop("ended") >= ended["began"] == running["began"]
    assert ended == {
        "method": "sft",
        "status": "finished",
        "began": running["began"],
        "exit_code": 0,
        "results": {"eval/accuracy": 0.5},
    }


def test_what_is_noted_on_the_way_stays(folder: RunFolder) -> None:
    with RunState(folder, {"method": "sft"}) as state:
        state.note(restarts=[1])
        running = about(folder)
    assert (running["status"], running["restarts"], running["pid"]) == ("running", [1], os.getpid())
    assert (about(folder)["status"], about(folder)["restarts"]) == ("finished", [1])


@pytest.mark.parametrize(
    ("cause", "status", "code"),
    [
        (TrainingDiverged("loss is nan"), "failed", 70),
        (ProofError("engines differ"), "failed", 70),
        (ActorLost("actor policy[0] died"), "failed", 75),
        (UserError("data: row 3 is empty"), "failed", 2),
        (KeyboardInterrupt(), "interrupted", 130),
        (Terminated(143, "ended by SIGTERM"), "interrupted", 143),
        (ValueError("a\nb"), "failed", 1),
        (SystemExit(0), "failed", 1),
        (MemoryError(), "failed", 1),
    ],
)
def test_every_other_end_is_told_with_the_way_on(
    folder: RunFolder, cause: BaseException, status: str, code: int
) -> None:
    (folder.checkpoints / "step_00000004").mkdir()
    (folder.checkpoints / "step_00000012").mkdir()
    raised = end(folder, cause)
    ended = about(folder)
    assert (ended["status"], ended["exit_code"]) == (status, code)
    assert ended["checkpoint"] == "step_00000012"
    assert ended["reason"] == str(raised)
    assert "ended" in ended
    assert len(str(raised).splitlines()) == 1
    assert str(cause).split("\n")[0] in str(raised)
    newest = folder.checkpoints / "step_00000012"
    assert f"last checkpoint: {newest} (--ckpt.load_enable goes on from it)" in str(raised)
    if isinstance(cause, RtoError | Terminated):
        assert type(raised) is type(cause)
        assert raised.exit_code == code


def test_without_a_checkpoint_that_is_said_but_for_a_users_mistake(folder: RunFolder) -> None:
    assert str(end(folder, ProofError("x"))) == "x; no checkpoint was written yet (ckpt.save_steps)"
    assert str(end(folder, UserError("x"))) == "x"
    assert about(folder)["checkpoint"] is None


@pytest.mark.parametrize("cause", [ValueError("api_key=hunter2"), RunFailed("policy[0] failed")])
def test_foreign_errors_leave_their_traceback_in_the_logs(
    folder: RunFolder, cause: BaseException
) -> None:
    raised = end(folder, cause)
    assert isinstance(raised, RunFailed)
    path = folder.logs / "traceback.txt"
    assert str(raised).endswith(f"; the whole traceback: {path}")
    assert "test_run_state.py" in path.read_text()
    assert "hunter2" not in path.read_text() + json.dumps(about(folder))


def test_errors_of_ours_need_no_traceback(folder: RunFolder) -> None:
    end(folder, TrainingDiverged("loss is nan"))
    assert list(folder.logs.iterdir()) == []


def test_a_full_disk_is_named(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("rto.storage.shutil.disk_usage", lambda path: usage(5 << 20))
    raised = end(folder, RuntimeError("unexpected pos 2509120 vs 2509008"))
    assert isinstance(raised, StorageFailed)
    said = "5.0 MiB are free (RuntimeError: unexpected pos 2509120 vs 2509008); no checkpoint"
    assert str(raised).startswith(f"the disk of {folder.path} is full: {said}")
    assert (about(folder)["status"], about(folder)["exit_code"]) == ("failed", 74)


def test_a_state_that_cannot_be_written_does_not_hide_the_reason(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: RunFolder, content: object) -> None:
        raise OSError(28, "No space left on device")

    state = RunState(folder, {})
    state.__enter__()
    monkeypatch.setattr(RunFolder, "write_about", full)
    with pytest.raises(ProofError, match="engines differ"):
        state.__exit__(ProofError, ProofError("engines differ"), None)
    assert "run.json could not be written (OSError: [Errno 28]" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_run_as_interrupted(folder: RunFolder, number: int, code: int) -> None:
    with pytest.raises(Terminated) as caught, RunState(folder, {}):
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == caught.value.code == code
    name = signal.Signals(number).name
    assert about(folder)["reason"].startswith(f"ended by {name}; no checkpoint")


def wait_as_ray_does() -> None:
    """It makes an error of its own of what a signal's handler raises."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        raise SystemExit(1) from None


def test_a_signal_that_comes_while_ray_waits_is_one_too(folder: RunFolder) -> None:
    with pytest.raises(Terminated) as caught, RunState(folder, {}):
        wait_as_ray_does()
    assert caught.value.exit_code == 143
    assert about(folder)["status"] == "interrupted"
