"""A dead actor does not end a run: the actors start anew, and the run is the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bigram_runs import Left, left_of, model_folder, offline, online
from local_group import BigramEngine, FrozenReplica, bigram
from local_run import LearningRank, LocalSession

from rto.errors import (
    ActorLost,
    ProofError,
    RewardProtocolError,
    RunFailed,
    TrainingDiverged,
    UserError,
)
from rto.runs import offline as offline_module
from rto.runs import online as online_module
from rto.runs.offline import OfflineRun, find_checkpoint, run_offline
from rto.runs.online import OnlineRun, run_online
from rto.runs.restarts import Restarts
from rto.tracking.run_folder import RunFolder
from rto.types import Role

Notes = list[Sequence[Mapping[str, str]]]
DIED = ActorLost("actor engine[0] died in generate: killed")


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> LocalSession:
    local = LocalSession({"frozen": {Role.REFERENCE: bigram()}})
    for module in (online_module, offline_module):
        monkeypatch.setattr(module, "session", local)
    return local


@pytest.fixture
def model(tmp_path: Path) -> str:
    return model_folder(tmp_path)


def trained(run: OnlineRun | OfflineRun, place: Path, *, most: int = 2) -> tuple[Left, Notes]:
    """What the run left, and the restarts that it told of."""
    notes: Notes = []
    work = partial(run_online, run) if isinstance(run, OnlineRun) else partial(run_offline, run)
    with RunFolder(place) as folder:
        newest = partial(find_checkpoint, run.config, run.method, folder.checkpoints)
        Restarts(most, newest, notes.append).run(work, folder, None)
        return left_of(folder.path), notes


Method = tuple[type, str]
GENERATE, SCORE = (BigramEngine, "generate_parts"), (FrozenReplica, "score")
UPDATE, SAVE, EXPORT = ((LearningRank, name) for name in ("update", "save", "export"))
LOAD, ACCEPT = (BigramEngine, "load_weights"), (BigramEngine, "accept")


def dies(patch: pytest.MonkeyPatch, of: Method, *calls: int, error: Exception = DIED) -> None:
    """The actors die in these calls of a method, counted from 1 over all starts."""
    kind, name = of
    real, made = getattr(kind, name), [0]

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        made[0] += 1
        if made[0] in calls:
            raise error
        return real(self, *args, **kwargs)

    patch.setattr(kind, name, counted)


@pytest.mark.parametrize(
    ("of", "call", "went_on_from"),
    [
        (GENERATE, 2, ""),  # The first is the self-check's.
        (GENERATE, 6, "step_00000003"),
        (SCORE, 5, "step_00000001"),
        (UPDATE, 2, ""),
        (UPDATE, 6, "step_00000001"),  # The critic's, in the third iteration.
        (SAVE, 3, "step_00000001"),
        (EXPORT, 1, ""),  # Of the best, before the checkpoint.
        (LOAD, 4, "step_00000001"),
        (ACCEPT, 5, "step_00000001"),
    ],
)
@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_that_lost_an_actor_is_the_run_that_lost_none(
    of: Method,
    call: int,
    went_on_from: str,
    lag: int,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, none = trained(online(model, lag=lag), tmp_path / "whole")
    dies(monkeypatch, of, call)
    found, notes = trained(online(model, lag=lag), tmp_path / "lost")
    assert none == []
    assert len(notes) == 1
    if not lag:
        assert notes[0][0]["checkpoint"] == went_on_from
    assert [row["iteration"] for row in found.metrics] == list(range(5))
    assert found == whole


@pytest.mark.parametrize("call", [1, 3, 5])
def test_an_offline_run_that_lost_an_actor_is_the_run_that_lost_none(
    call: int, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = trained(offline(model), tmp_path / "whole")
    dies(monkeypatch, UPDATE, call)
    found, notes = trained(offline(model), tmp_path / "lost")
    assert len(notes) == 1
    assert found == whole


def test_each_restart_is_told_and_noted(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dies(monkeypatch, GENERATE, 2, 6)
    _, notes = trained(online(model), tmp_path / "run")
    said = [line for line in capsys.readouterr().out.splitlines() if "start anew" in line]
    assert "died in generate: killed; the actors start anew, from the first step on; 1 r" in said[0]
    assert "from step_00000001 on; 0 restarts left" in said[1]
    assert [len(each) for each in notes] == [1, 2]
    assert [each["checkpoint"] for each in notes[-1]] == ["", "step_00000001"]
    assert {each["lost"] for each in notes[-1]} == {str(DIED)}
    assert all(each["at"].startswith("20") for each in notes[-1])


@pytest.mark.parametrize(
    ("most", "said"),
    [(0, "died in generate: killed$"), (1, "killed; the 1 restarts of ray.max_restarts are used")],
)
def test_so_many_restarts_and_no_more(
    most: int, said: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(monkeypatch, GENERATE, 3, 6)
    with pytest.raises(ActorLost, match=said):
        trained(online(model), tmp_path / "run", most=most)


def test_a_start_that_fails_twice_the_same_way_is_not_tried_again(
    model: str, tmp_path: Path, session: LocalSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(monkeypatch, GENERATE, 1, 2, 3)
    with pytest.raises(ActorLost, match="killed; the start before it ended in the same way"):
        trained(online(model), tmp_path / "run", most=9)
    assert len(session.opened) == 2


def test_a_start_that_fails_in_another_way_is(
    model: str, tmp_path: Path, session: LocalSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(monkeypatch, GENERATE, 1)
    dies(monkeypatch, ACCEPT, 2, error=ActorLost("actor engine[0] died in accept: killed"))
    trained(online(model), tmp_path / "run")
    assert len(session.opened) == 3


def test_a_start_that_fails_as_the_work_before_it_did_is(
    model: str, tmp_path: Path, session: LocalSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(monkeypatch, GENERATE, 2, 3)
    trained(online(model), tmp_path / "run")
    assert len(session.opened) == 3


@pytest.mark.parametrize(
    "error",
    [
        UserError("x"),
        TrainingDiverged("loss is nan"),
        ProofError("engines differ"),
        RewardProtocolError("no number"),
        RunFailed("policy[0] failed"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_would_happen_again_ends_the_run(
    error: Exception, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(monkeypatch, UPDATE, 3, error=error)
    with pytest.raises(type(error)):
        trained(online(model), tmp_path / "run")


def test_what_a_lost_run_had_open_is_closed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    for module in (online_module, offline_module):
        opened = module.open_tracker

        def noting(*args: Any, opened: Callable[..., Any] = opened, **kwargs: Any) -> Any:
            tracker = opened(*args, **kwargs)
            monkeypatch.setattr(tracker, "close", lambda: closed.append("closed"))
            return tracker

        monkeypatch.setattr(module, "open_tracker", noting)
    dies(monkeypatch, UPDATE, 2)
    for run in (online(model), offline(model)):
        with pytest.raises(ActorLost):
            trained(run, tmp_path / type(run).__name__, most=0)
        monkeypatch.setattr(LearningRank, "update", _dead)
    assert closed == ["closed", "closed"]


def _dead(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise DIED
