"""Waiting for actors: results in order, failures by name, and a dead actor is never waited for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from handles import WAITING, Answers, Handle, died, raised
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError

from rto.cluster import groups
from rto.cluster.groups import ActorGroup, Gate, RemoteCall, Watch, own_words
from rto.errors import ActorLost, ProofError, RunFailed, Terminated
from rto.interrupt import Ending

CALL: RemoteCall[Any] = RemoteCall("work", (), {})


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Nothing is waited for longer than it takes to look once."""
    answers = Answers()
    monkeypatch.setattr(groups, "ray", answers)
    monkeypatch.setattr(groups, "VERDICT_SECONDS", 0.0)
    return answers


def group(answers: Sequence[Any], *, watch: Watch | None = None, timeout: float = 60) -> ActorGroup:
    handles: list[Any] = [Handle(str(i), {"work": answer}) for i, answer in enumerate(answers)]
    return ActorGroup("policy", handles, timeout, watch or Watch())


def watching(**pings: Any) -> tuple[Watch, dict[str, Handle]]:
    """A watch that has not looked for long, over actors that answer a ping so."""
    watch = Watch(_looked=-1e9)
    handles = {name: Handle(name, {"__ray_ready__": answer}) for name, answer in pings.items()}
    for name, handle in handles.items():
        watch.add(name, handle)  # pyright: ignore[reportArgumentType]
    return watch, handles


def again(watch: Watch) -> None:
    watch._looked = -1e9
    watch.look()


def test_results_are_in_rank_order_whichever_comes_first() -> None:
    assert group([1, 2, 3]).all(CALL).get() == [1, 2, 3]


def test_a_call_is_sent_to_each_actor_with_its_own_arguments() -> None:
    two = group([1, 2])
    calls: list[RemoteCall[Any]] = [RemoteCall("work", (i,), {"k": i}) for i in range(2)]
    two.each(calls)
    sent = [handle.calls for handle in two.actors]  # pyright: ignore
    assert sent == [[("work", i, {"k": i})] for i in range(2)]


@pytest.mark.parametrize("timeout", [None, -2.0])
def test_actors_that_do_not_answer_in_time_are_named(timeout: float | None) -> None:
    """A limit of the call's own stands above the group's."""
    pending = group([WAITING, 1, WAITING], timeout=60 if timeout else -1.0).all(CALL)
    with pytest.raises(ActorLost, match=r"^policy\[0\], policy\[2\] did not answer work within"):
        pending.get(timeout)


def test_an_error_of_ours_arrives_as_it_was_raised() -> None:
    error = ProofError("the engine holds other weights")
    with pytest.raises(ProofError, match="^the engine holds other weights$"):
        group([1, raised(error)]).all(CALL).get()


def test_another_error_is_told_with_the_actor_and_the_call() -> None:
    with pytest.raises(RunFailed, match=r"policy\[1\] failed in work: .*no room") as caught:
        group([1, raised(MemoryError("no room"))]).all(CALL).get()
    assert "traceback" not in str(caught.value)


def test_a_rank_that_fails_because_its_peer_died_is_not_blamed() -> None:
    watch, _ = watching(peer=died())
    with pytest.raises(ActorLost, match="^actor peer died: "):
        group([raised(RuntimeError("connection reset"))], watch=watch).all(CALL).get()


def test_a_dead_actor_is_named_with_the_first_line_of_the_reason() -> None:
    with pytest.raises(ActorLost, match=r"actor policy\[0\] died in work: ") as caught:
        group([died()]).all(CALL).get()
    assert "more of it" not in str(caught.value)


def test_a_result_that_never_arrives_is_told() -> None:
    with pytest.raises(ActorLost, match=r"policy\[0\]: result of work was lost"):
        group([GetTimeoutError("late")]).all(CALL).get()


def test_an_actor_that_nobody_waits_for_is_found_dead() -> None:
    watch, _ = watching(busy=WAITING, dead=died())
    watch.look()
    with pytest.raises(ActorLost, match="actor dead died"):
        group([WAITING], watch=_due(watch), timeout=1).all(CALL).get()


def _due(watch: Watch) -> Watch:
    watch._looked = -1e9
    return watch


def test_it_looks_from_time_to_time_alone() -> None:
    watch, handles = watching(a=True)
    watch.look()
    watch.look()
    assert handles["a"].calls == [("__ray_ready__",)]


def test_a_busy_actor_has_one_ping_and_an_idle_one_another_each_time() -> None:
    watch, handles = watching(busy=WAITING, idle=True)
    for _ in range(3):
        again(watch)
    assert {name: len(handle.calls) for name, handle in handles.items()} == {"busy": 1, "idle": 3}


def test_an_actor_that_was_ended_on_purpose_is_not_missed() -> None:
    watch, _ = watching(kept=True, ended=died())
    watch.look()
    watch.remove("ended")
    again(watch)
    watch.check(patience=0)
    assert list(watch.actors) == ["kept"]


def test_a_check_asks_anew_and_is_patient_with_a_busy_actor() -> None:
    watch, handles = watching(busy=WAITING)
    watch.check(patience=0)
    handles["busy"].answers["__ray_ready__"] = died()
    with pytest.raises(ActorLost, match="actor busy died"):
        watch.check(patience=0)


def test_killing_a_group_kills_every_actor(ray: Answers) -> None:
    two = group([1, 2])
    two.kill()
    assert ray.killed == list(two.actors)


def test_what_was_raised_is_found_within_errors_of_errors() -> None:
    cause = ValueError("x")
    assert own_words(raised(raised(cause))) is cause
    bare = raised(cause)
    bare.cause = None  # pyright: ignore
    assert own_words(bare) is bare


def test_what_an_actor_failed_with_while_others_waited_ends_the_wait() -> None:
    """It answers its ping with the failure: in our words as they are, in others' with its name."""
    for error, kind, said in (
        (ProofError("tensor 'a' came twice"), ProofError, "^tensor 'a' came twice$"),
        (MemoryError("no room"), RunFailed, r"^actor engine\[0\] failed: .*no room"),
    ):
        watch = Watch(_looked=-1e9)
        handle: Any = Handle("engine", {"tell": raised(error)})
        watch.add("engine[0]", handle, RemoteCall("tell", (), {}))
        watch.look()
        with pytest.raises(kind, match=said):
            group([WAITING], watch=_due(watch), timeout=1).all(CALL).get()
        assert handle.calls == [("tell",)]


LOST = [RayError("the head is gone"), ObjectLostError("0" * 56, None, "")]


@pytest.mark.parametrize("error", LOST, ids=["Ray", "object"])
def test_what_ray_itself_lost_is_an_actor_lost(error: RayError) -> None:
    with pytest.raises(ActorLost, match=r"policy\[0\] was lost in work: \S"):
        group([error]).all(CALL).get()
    watch, _ = watching(gone=error)
    with pytest.raises(ActorLost, match="actor gone died: "):
        watch.check(patience=0)


def test_a_closed_gate_lets_nobody_begin_a_call_and_ends_those_that_wait(ray: Answers) -> None:
    watch, errors = Watch(), list[ActorLost]()
    waiting = group([WAITING], watch=watch).all(CALL)

    def wait() -> None:
        try:
            waiting.get()
        except ActorLost as error:
            errors.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    watch.gate.close()
    watch.gate.wait_until_left()
    thread.join(timeout=10)
    assert [str(error) for error in errors] == ["the actors of this run have been ended"]
    for call in (lambda: group([1], watch=watch).all(CALL), waiting.get):
        with pytest.raises(ActorLost, match="have been ended"):
            call()


def test_who_closes_a_gate_waits_until_all_have_left() -> None:
    gate, inside, left = Gate(), threading.Event(), threading.Event()

    def stay() -> None:
        with gate.passed():
            inside.set()
            left.wait(10)

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    inside.wait(10)
    gate.close()
    gate.wait_until_left(patience=0.01)
    assert thread.is_alive()
    left.set()
    gate.wait_until_left()
    assert gate._inside == 0
    thread.join(timeout=10)


class Seen:
    """What the system shows of the actors; ``dead`` is what happened to Ray itself."""

    def __init__(self, stopped: str | None = None) -> None:
        self._stopped = stopped

    def stopped(self, actors: Any, *, patience: float) -> str | None:
        assert patience == groups.STOPPED_SECONDS
        return self._stopped

    def explain(self, actors: Any, waiting: Sequence[str]) -> str:
        return f"seen: {', '.join(waiting)}"


def seen(watch: Watch, stopped: str | None = None) -> Watch:
    watch.processes = Seen(stopped)  # pyright: ignore[reportAttributeAccessIssue]
    return watch


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The server of Ray that has died, if there is one."""
    dead: list[str] = []
    monkeypatch.setattr(groups.launch, "dead_server", lambda: dead[0] if dead else None)
    return dead


def test_an_actor_that_is_stopped_ends_the_wait(server: list[str]) -> None:
    watch = seen(_due(Watch()), stopped="engine[0]")
    with pytest.raises(ActorLost, match=r"^actor engine\[0\] is stopped \(SIGSTOP\) for 30 s now$"):
        group([WAITING], watch=watch, timeout=1).all(CALL).get()


def test_who_keeps_the_others_waiting_is_told(server: list[str]) -> None:
    pending = group([1, WAITING], watch=seen(Watch()), timeout=-1.0).all(CALL)
    said = r"^policy\[1\] did not answer work within -1 s; seen: policy\[1\]$"
    with pytest.raises(ActorLost, match=said):
        pending.get()


@pytest.mark.parametrize(
    "error", [RuntimeError("Timed out waiting 20000ms for recv"), RuntimeError("timeout=300000")]
)
def test_a_rank_that_did_not_come_is_blamed_and_not_the_one_that_waited(
    error: Exception, server: list[str]
) -> None:
    pending = group([raised(error), WAITING], watch=seen(Watch())).all(CALL)
    said = r"^policy\[1\] did not answer work while policy\[0\] waited in a collective; seen: pol"
    with pytest.raises(ActorLost, match=said):
        pending.get()


@pytest.mark.parametrize("answers", [
    [raised(RuntimeError("out of memory")), WAITING],
    [raised(RuntimeError("Timed out waiting")), raised(RuntimeError("Timed out waiting"))],
])  # fmt: skip
def test_any_other_failure_is_its_own_ranks(answers: list[Any], server: list[str]) -> None:
    with pytest.raises(RunFailed, match=r"^policy\[\d\] failed in work"):
        group(answers, watch=seen(Watch())).all(CALL).get()


@pytest.mark.parametrize("answers", [[died()], [WAITING], [raised(RuntimeError("reset"))]])
def test_where_ray_itself_has_died_no_actor_is_blamed(answers: Any, server: list[str]) -> None:
    server.append("Ray's raylet was killed by signal 9")
    watch = seen(_due(watching(peer=died())[0]))
    with pytest.raises(ActorLost, match="^Ray's raylet was killed by signal 9$"):
        group(answers, watch=watch, timeout=1).all(CALL).get()


def test_a_wait_hears_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Ending()
    monkeypatch.setattr(groups, "ending", own)

    def wait() -> None:
        with own.deferred():
            own.ask(signal.SIGTERM)
            group([WAITING], timeout=5).all(CALL).get()

    with pytest.raises(Terminated, match="^ended by SIGTERM$"):
        wait()
