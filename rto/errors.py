"""Errors that end a run in one line, their exit codes, and the guard around foreign code.

Exit codes follow sysexits.h where it has a fitting number.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from traceback import TracebackException

from rto.secrets import hide
from rto.text import one_line


class RtoError(Exception):
    """One line on stderr and an exit code."""

    exit_code = 1


class UserError(RtoError, ValueError):
    """A setting, a file or a row is wrong: one line with the name, the value and the remedy."""

    exit_code = 2


class ProofError(RtoError, RuntimeError):
    """A check the run depends on failed: weight sync, self-check, tokenizer equality."""

    exit_code = 70


class TrainingDiverged(RtoError, RuntimeError):
    """A loss or a gradient norm is not finite; nothing was applied to the weights."""

    exit_code = 70


class RewardProtocolError(RtoError, RuntimeError):
    """A reward source answered with something other than one finite number per response."""

    exit_code = 76


class JudgeError(RtoError, RuntimeError):
    """A judge's endpoint refused a request, or answered none of several attempts."""

    exit_code = 76


class ActorLost(RtoError, RuntimeError):
    """A Ray actor died; the message names it."""

    exit_code = 75


class StorageFailed(RtoError, RuntimeError):
    """A disk is full, read-only or gone; what was on it before is still whole."""

    exit_code = 74


class RunFailed(RtoError, RuntimeError):
    """Code that is not ours failed in a run; the message says where the whole traceback is."""


class Terminated(SystemExit):
    """A signal asked this process to end.

    ``exit_code`` is 128 plus the signal's number, as shells have it; ``said`` what the user reads.
    """

    def __init__(self, exit_code: int, said: str = "") -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
        self.said = said

    def __str__(self) -> str:
        return self.said


PASSING = KeyboardInterrupt | GeneratorExit | Terminated
"""What ends a block from outside of it: nothing that its code did."""


class foreign:
    """Whatever code of somebody else's raises inside, ``sys.exit`` included, becomes one line:
    ``problem: what it said; remedy``. An error that is ours already passes as it is.

    For readers, templates, tokenizers, reward functions: they can fail in any way.
    """

    def __init__(self, problem: str, remedy: str = "", *, error: type[RtoError] = UserError):
        self.problem = problem
        self.remedy = remedy
        self.error = error

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: object
    ) -> None:
        # Not a generator: contextlib passes a StopIteration on where the new error is caused by it.
        if cause is None or isinstance(cause, RtoError | PASSING):
            return
        advice = f"; {self.remedy}" if self.remedy else ""
        raise self.error(f"{self.problem}: {told(cause)}{advice}") from cause


def told(error: BaseException, limit: int = 300) -> str:
    """What an exception says, on one line and without secrets: its type, and the first line of its
    text, with the next one where that only announces it. One whose own code fails when it is asked
    is told by its type."""
    name = type(error).__name__
    # The standard library's own way to have a text of what cannot be trusted to give one.
    said = str(TracebackException(type(error), error, None))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wanted = 2 if lines and lines[0].endswith(":") else 1
    text = hide(one_line(" ".join(lines[:wanted]), limit))
    return f"{name}: {text}" if text else name


def bad_path(error: OSError) -> str:
    """A path that no file system takes, or that this user may not use, wherever that was seen."""
    shown = one_line(ascii(str(error.filename)), 80)
    return hide(f"{shown}: {error.strerror}: give another path")


def nearest(name: str, known: Iterable[str], *, shown: str = "{}") -> str:
    """``did you mean X?`` with the known name that is nearest to this one, in capitals or not.
    Empty if none is near. ``shown`` is how the name is written, as ``--{}``."""
    lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    return f"did you mean {shown.format(lower[near[0]])}?" if near else ""
