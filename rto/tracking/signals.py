"""Raise an exception for signals that ask a process to end, so that open resources are closed."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from rto.errors import Terminated

ENDING = (signal.SIGTERM, signal.SIGHUP)
_received: list[Terminated] = []


def end_on_signals() -> None:
    """From now on each of ``ENDING`` raises ``Terminated`` in the main thread.

    One that the user has switched off, as nohup does, stays so. Called again after ``ray.init``,
    which installs handlers of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _received.clear()
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)


def as_signal(error: BaseException) -> BaseException:
    """The error, or the signal behind it: while Ray waits for an answer, it makes a ``SystemExit``
    of its own of what a handler raises."""
    if isinstance(error, SystemExit) and not isinstance(error, Terminated) and _received:
        return _received.pop()
    return error


def _terminate(number: int, frame: FrameType | None) -> None:
    _received[:] = [Terminated(128 + number, f"ended by {signal.Signals(number).name}")]
    raise _received[0]
