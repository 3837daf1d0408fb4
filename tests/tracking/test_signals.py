"""Signals that ask a process to end, as an exception."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from rto.errors import Terminated
from rto.tracking.signals import ENDING, end_on_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_is_an_exception_with_the_code_that_a_shell_would_see(number: int) -> None:
    end_on_signals()
    with pytest.raises(Terminated, match=f"ended by {signal.Signals(number).name}") as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number


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
