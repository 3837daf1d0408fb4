"""Signals that ask a process to end, as an exception."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from rto.errors import Terminated
from rto.interrupt import ending
from rto.tracking.signals import ENDING, as_signal, end_on_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*ENDING, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_is_an_exception_with_the_code_that_a_shell_would_see(number: int) -> None:
    end_on_signals()
    with pytest.raises(Terminated, match=f"ended by {signal.Signals(number).name}") as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number


def test_what_a_library_makes_of_a_signal_is_the_signal() -> None:
    end_on_signals()
    assert isinstance(as_signal(made := SystemExit(1)), SystemExit)
    assert as_signal(made) is made, "no signal came"
    with pytest.raises(Terminated) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    other = ValueError("x")
    assert as_signal(other) is other
    assert as_signal(caught.value) is caught.value
    assert as_signal(made) is caught.value
    assert as_signal(made) is made, "told once"
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
    end_on_signals()
    assert as_signal(made) is made, "a new run has had no signal"


def test_while_ray_starts_a_signal_is_its_exit_code() -> None:
    """Its own handler is there until it has started."""
    end_on_signals()
    found = as_signal(SystemExit(int(signal.SIGTERM)))
    assert isinstance(found, Terminated)
    assert (found.exit_code, str(found)) == (143, "ended by SIGTERM")
    assert type(as_signal(SystemExit(2))) is SystemExit


def interrupted() -> None:
    with ending.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        ending.check()


def test_a_handler_of_somebody_else_for_ctrl_c_stays() -> None:
    signal.signal(signal.SIGINT, lambda number, frame: None)
    theirs = signal.getsignal(signal.SIGINT)
    end_on_signals()
    assert signal.getsignal(signal.SIGINT) is theirs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_on_signals()
    with pytest.raises(Terminated) as caught:
        interrupted()
    assert caught.value.exit_code == 130


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_on_signals()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGHUP)
    assert sys.exc_info() == (None, None, None)


def test_another_thread_than_the_main_one_changes_nothing() -> None:
    """Python lets the main thread alone set handlers."""
    before, errors = signal.getsignal(signal.SIGTERM), list[BaseException]()

    def ask() -> None:
        try:
            end_on_signals()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert errors == []
    assert signal.getsignal(signal.SIGTERM) is before
