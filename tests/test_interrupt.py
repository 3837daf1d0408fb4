"""A signal while a run trains: when it is heard, and what it may break off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from rto import interrupt
from rto.errors import ActorLost, Terminated
from rto.interrupt import Ending, waited


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ending(clock: Clock) -> Ending:
    return Ending(clock)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_outside_of_training_a_signal_is_an_exception_at_once(ending: Ending) -> None:
    with pytest.raises(Terminated, match=r"^ended by SIGTERM$") as caught:
        ending.ask(signal.SIGTERM)
    assert caught.value.exit_code == 143
    ending.check()
    ending.changing()
    ending.reset()
    with pytest.raises(KeyboardInterrupt):
        ending.ask(signal.SIGINT)


def left(ending: Ending, *events: Callable[[], object], grace: float = 20) -> BaseException:
    """What leaves training in which these things happen, one after the other."""
    try:
        with ending.deferred(grace):
            for event in events:
                event()
    except BaseException as raised:
        return raised
    raise AssertionError("nothing was raised")


def code(ended: BaseException) -> int:
    assert isinstance(ended, Terminated)
    return ended.exit_code


@pytest.fixture
def term(ending: Ending) -> Callable[[], None]:
    return lambda: ending.ask(signal.SIGTERM)


def test_between_iterations_the_next_wait_raises(ending: Ending) -> None:
    ended = left(ending, ending.check, lambda: ending.ask(signal.SIGINT), ending.check, fail)
    assert (str(ended), code(ended)) == ("ended by SIGINT", 130)
    assert ending.is_whole


def fail() -> None:
    raise AssertionError("it went on")


def test_no_iteration_begins_after_a_signal(ending: Ending, term: Callable[[], None]) -> None:
    assert str(left(ending, term, ending.changing, fail)) == "ended by SIGTERM"
    assert ending.is_whole


def passing(clock: Clock, seconds: float) -> Callable[[], None]:
    def wait() -> None:
        clock.now += seconds

    return wait


def test_an_iteration_may_end_within_the_grace(
    ending: Ending, clock: Clock, term: Callable[[], None]
) -> None:
    done: list[str] = []
    ended = left(
        ending, ending.changing, term, passing(clock, 20), ending.check,
        lambda: done.append("update"), ending.whole, ending.check, fail,
    )  # fmt: skip
    assert (str(ended), done) == ("ended by SIGTERM", ["update"])


def test_after_the_grace_an_iteration_is_broken_off(
    ending: Ending, clock: Clock, term: Callable[[], None]
) -> None:
    ended = left(ending, ending.changing, term, passing(clock, 20.5), ending.check, fail)
    assert str(ended).endswith("the iteration under way took more than ckpt.grace 20 s")
    assert code(ended) == 143
    assert not ending.is_whole


def test_a_save_is_not_broken_off(ending: Ending, clock: Clock, term: Callable[[], None]) -> None:
    done: list[str] = []
    events = ending.saving, term, passing(clock, 1000), ending.check, lambda: done.append("save")
    assert str(left(ending, *events, ending.whole)) == "ended by SIGTERM"
    assert done == ["save"]


@pytest.mark.parametrize("state", ["whole", "changing", "saving"])
def test_a_second_signal_ends_at_once(ending: Ending, state: str, term: Callable[[], None]) -> None:
    """A third one is the system's."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    assert str(left(ending, getattr(ending, state), term, term, fail)) == "ended by SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_nobody_waited_for_is_heard_at_the_end(
    ending: Ending, term: Callable[[], None]
) -> None:
    assert code(left(ending, term)) == 143


def die() -> None:
    raise ActorLost("x died")


def test_what_fails_after_a_signal_is_told_with_it(
    ending: Ending, term: Callable[[], None]
) -> None:
    """Where a job's manager signals every process the actors are lost, too."""
    ended = left(ending, ending.changing, term, die)
    assert (str(ended), code(ended)) == ("ended by SIGTERM, and then: ActorLost: x died", 143)
    assert isinstance(left(ending, die), ActorLost)


def test_the_user_hears_what_will_happen(ending: Ending, capfd: pytest.CaptureFixture[str]) -> None:
    left(ending, lambda: ending.ask(signal.SIGINT))
    said = "SIGINT: the run ends with a checkpoint; once more ends it at once"
    assert said in capfd.readouterr().out


def test_another_run_begins_anew(ending: Ending, term: Callable[[], None]) -> None:
    left(ending, ending.changing, term)
    with ending.deferred():
        assert ending.is_whole
        ending.check()


@pytest.fixture
def own(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> Ending:
    monkeypatch.setattr(interrupt, "ending", ending)
    monkeypatch.setattr(interrupt, "LOOK_SECONDS", 0.01)
    return ending


def test_a_wait_for_a_thread_hears_a_signal(own: Ending) -> None:
    never: Future[int] = Future()
    whole = threading.Timer(0.05, own.whole)
    ask = partial(own.ask, signal.SIGTERM)
    assert code(left(own, own.changing, whole.start, ask, lambda: waited(never))) == 143


def test_a_wait_for_a_thread_gives_what_it_gave(own: Ending) -> None:
    with ThreadPoolExecutor(1) as threads:
        assert waited(threads.submit(lambda: 5)) == 5
        assert waited(threads.submit(threading.Event().wait, 0.05)) is False
        with pytest.raises(TimeoutError, match="of its own"):
            waited(threads.submit(_time_out))


def _time_out() -> None:
    raise TimeoutError("of its own")
