"""Signals that ask a process to end, as an exception: open resources are closed on its way."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from rto.errors import Terminated
from rto.interrupt import ending

ENDING = (signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """From now on each of ``ENDING``, and Ctrl-C, is an exception in the main thread: at once, or
    when the run's state is saved (`rto.interrupt`).

    One that the user has switched off, as nohup does, stays so. Called again after ``ray.init``,
    which installs handlers of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    ending.reset()
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _ask)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _ask)


def as_signal(error: BaseException) -> BaseException:
    """The error, or the signal behind it: while Ray waits for an answer, it makes a ``SystemExit``
    of its own of what a handler raises, and while it starts it has a handler of its own."""
    if not isinstance(error, SystemExit) or isinstance(error, Terminated):
        return error
    if ending.asked is not None:
        asked, ending.asked = ending.asked, None
        return asked
    if error.code == signal.SIGTERM:
        return Terminated(128 + signal.SIGTERM, f"ended by {signal.SIGTERM.name}")
    return error


def _ask(number: int, frame: FrameType | None) -> None:
    ending.ask(number)
