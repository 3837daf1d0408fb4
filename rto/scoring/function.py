"""Rewards from a Python file with OpenRLHF's contract.

The file defines ``reward_func(queries, prompts, labels)``. It returns one number per query as a
list, tensor or array, or a mapping that holds them under ``rewards`` (``scores`` and
``extra_logs`` beside it are allowed and not used). A process of its own runs the file, so that
nothing it does reaches this one.
"""

from __future__ import annotations

import hashlib
import logging
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rto.errors import RewardProtocolError, RtoError, UserError, foreign
from rto.scoring.finite import finite_rewards
from rto.scoring.function_process import FunctionEnded, FunctionProcess
from rto.secrets import hide, shown_url
from rto.text import one_line

TIMEOUT = 600.0
"""Seconds."""
LONGEST_ERROR = 600
_LOG = logging.getLogger("reward_func")
"""``rto.tracking.quiet`` gives it a file among the run's logs."""
_LOG.setLevel(logging.INFO)


class RewardFunction:
    """A reward_func.py that was loaded; ``str()`` gives its absolute path and SHA-256.

    Its process is started once and keeps what the file holds from call to call. After one that
    ended it, the next call starts another.

    Args:
        timeout: seconds that the file may take to load, and each call; ``limit`` is how messages
            name it.
        memory_gib: address space of the process; None for no limit.
        hidden: environment variables that the process does not get, beside this program's own
            secrets (``rto.secrets.OWN_VARIABLES``).
        printed: takes what the file prints, up to some MiB in all.
    """

    def __init__(
        self,
        path: str,
        *,
        timeout: float = TIMEOUT,
        limit: str = "reward.func_timeout",
        memory_gib: float | None = None,
        hidden: Sequence[str] = (),
        printed: Callable[[str], None] = _LOG.info,
    ) -> None:
        self.path = _checked_path(path)
        self._code = self.path.read_bytes()
        self.sha256 = hashlib.sha256(self._code).hexdigest()
        self._timeout = timeout
        self._limit = limit
        self._memory = None if memory_gib is None else int(memory_gib * 2**30)
        self._hidden = hidden
        self._printed = printed
        self._turn = threading.Lock()
        self._process: FunctionProcess | None = None
        self._calls = 0
        with self._turn:
            self._process = self._loaded()

    def __str__(self) -> str:
        return f"{self.path} (sha256 {self.sha256})"

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
    ) -> list[float]:
        """One finite reward per query; ``queries`` are prompt plus response.

        Raises:
            RewardProtocolError: the function raised, ended its process, did not end in time or
                returned something else; names the file, and the line where it is known.
        """
        request = {"queries": list(queries), "prompts": list(prompts), "labels": list(labels)}
        with self._turn:
            # Put back only after an answer: any other end of a call is the end of the process.
            process, self._process = self._process or self._loaded(), None
            answer = self._asked(process, request, RewardProtocolError, count=len(queries))
            self._process = process
        self._raise_error(answer, RewardProtocolError)
        return finite_rewards(answer.get("rewards"), count=len(queries), source=str(self.path))

    def close(self) -> None:
        """End the process; a later call starts another."""
        with self._turn:
            process, self._process = self._process, None
            if process is not None:
                process.stop()

    def _loaded(self) -> FunctionProcess:
        """
        Raises:
            UserError: the file cannot be run, or defines no reward function.
        """
        about = {
            "path": str(self.path),
            "sha256": self.sha256,
            "code": self._code.decode("latin-1"),
            "memory": self._memory,
        }
        try:
            process = FunctionProcess(str(self.path), hidden=self._hidden, printed=self._printed)
        except FunctionEnded as error:
            raise UserError(f"reward.func_path {self.path}: {error.how}{_said(error)}") from error
        answer = self._asked(process, about, UserError, count=0)
        if "error" in answer:
            process.stop()
        self._raise_error(answer, UserError)
        return process

    def _asked(
        self,
        process: FunctionProcess,
        request: Mapping[str, object],
        kind: type[RtoError],
        *,
        count: int,
    ) -> dict[str, object]:
        """The answer to this very request."""
        self._calls += 1
        request = {**request, "call": self._calls}
        try:
            answer = process.ask(request, timeout=self._timeout, count=count)
        except FunctionEnded as error:
            setting = "reward.func_path " if kind is UserError else ""
            how = error.how or f"no answer within {self._limit} {self._timeout:g} s"
            place = error.where or str(self.path)
            raise kind(f"{setting}{place}: {how}{_said(error)}") from error
        if answer.get("call") != self._calls:
            process.stop()
            raise kind(f"{self.path}: it answered what it was not asked")
        return answer

    def _raise_error(self, answer: Mapping[str, object], kind: type[RtoError]) -> None:
        if "error" in answer:
            if answer.get("trace"):
                trace = str(answer["trace"]).encode("utf-8", "backslashreplace")
                self._printed(trace.decode())
            raise kind(hide(one_line(str(answer["error"]), LONGEST_ERROR)))


def _said(error: FunctionEnded) -> str:
    return f"; it printed last: {one_line(ascii(error.said), 200)}" if error.said else ""


def _checked_path(path: str) -> Path:
    if "://" in path:
        raise UserError(f"reward.func_path {shown_url(path)}: must be a local file, not a URL")
    with foreign(f"reward.func_path {path!a}", "name a Python file"):
        resolved = Path(path).expanduser().resolve()
        is_file = resolved.is_file()
    if not is_file:
        raise UserError(f"reward.func_path {resolved}: no such file")
    for place in (resolved, resolved.parent):
        if place.stat().st_mode & stat.S_IWOTH:
            raise UserError(
                f"reward.func_path: {place} is writable by everyone, and this file is run as code: "
                f"chmod o-w {place}"
            )
    return resolved
