"""The end that a signal asks for, put off until the state of the run is on the disk.

While a run trains, the handler of a signal only notes it. What waits looks at the note: between two
iterations it raises at once, so that the last whole one can be saved; while an iteration changes
the weights it is let finish, for a limited time. A second signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Literal, TypeVar

from rto.errors import Terminated, told

LOOK_SECONDS = 1.0
"""How often a wait looks whether the run is to end."""
GRACE_SECONDS = 20.0

Result = TypeVar("Result")
State = Literal["whole", "changing", "saving"]
"""Of the trained weights: those after a whole iteration, or something in between; or they are being
written, which nothing but a second signal breaks off."""


class Ending:
    """Whether a signal asked this process to end, and whether now is a good moment.

    One thread trains and is told of signals; others may wait.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = 0.0
        self._grace = GRACE_SECONDS
        self._deferring = False
        self._state: State = "whole"
        self.asked: Terminated | None = None
        """What the signal ends the process with."""

    def reset(self) -> None:
        """For a new run, which no signal has asked to end."""
        self.asked = None

    def ask(self, number: int) -> None:
        """What a signal does.

        Raises:
            KeyboardInterrupt, Terminated: unless it is the first one within ``deferred``.
        """
        name, first = signal.Signals(number).name, self.asked is None
        self.asked = Terminated(128 + number, f"ended by {name}")
        if first and self._deferring:
            self._since = self._clock()
            _say(f"{name}: the run ends with a checkpoint; once more ends it at once")
            return
        if not first:
            # A third one meets nobody who would stop to tidy up.
            signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT and not self._deferring:
            raise KeyboardInterrupt
        raise self.asked

    @contextmanager
    def deferred(self, grace: float = GRACE_SECONDS) -> Iterator[None]:
        """Within it the first signal waits for ``check``; an iteration under way may take ``grace``
        more seconds. When it is left, by an error too, a signal that came ends the process.

        Raises:
            Terminated: a signal came.
        """
        self.reset()
        self._grace, self._state, self._deferring = grace, "whole", True
        try:
            yield
        except Exception as error:
            if self.asked is not None:
                said = f"{self.asked}, and then: {told(error)}"
                raise Terminated(self.asked.exit_code, said) from error
            raise
        finally:
            self._deferring = False
        if self.asked is not None:
            raise self.asked

    @property
    def is_whole(self) -> bool:
        return self._state == "whole"

    def changing(self) -> None:
        """From now on the weights are those of no whole iteration.

        Raises:
            Terminated: a signal came before.
        """
        # In this order: a thread that has seen both the signal and whole weights has given up.
        before, self._state = self._state, "changing"
        if self._deferring and self.asked is not None:
            self._state = before
            raise self.asked

    def saving(self) -> None:
        """From now on no wait is broken off."""
        self._state = "saving"

    def whole(self) -> None:
        """From now on the weights are those after a whole iteration."""
        self._state = "whole"

    def check(self) -> None:
        """Whoever waits within ``deferred`` asks this from time to time.

        Raises:
            Terminated: a signal came, and the weights are whole or the time for that is over.
        """
        asked = self.asked
        if asked is None or not self._deferring or self._state == "saving":
            return
        if self._state == "whole":
            raise asked
        if self._clock() - self._since > self._grace:
            raise Terminated(
                asked.exit_code,
                f"{asked}; the iteration under way took more than ckpt.grace {self._grace:g} s",
            )


ending = Ending()
"""Of this process."""


def waited(future: Future[Result]) -> Result:
    """The future's result, or what it raises.

    Raises:
        Terminated: see ``Ending.check``.
    """
    while True:
        try:
            return future.result(timeout=LOOK_SECONDS)
        except TimeoutError:
            if future.done():
                return future.result()
            ending.check()


def _say(text: str) -> None:
    """From within a handler, where whatever prints may be half way through a line."""
    os.write(1, f"\n{text}\n".encode())
