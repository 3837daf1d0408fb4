"""The driver's end of the process that runs a reward function (``rto.scoring.function_worker``)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from rto.scoring.function_worker import LENGTH, frame, place
from rto.secrets import OWN_VARIABLES

CODE = (
    "import sys; sys.path[:] = sys.argv[1:]; from rto.scoring.function_worker import main; main()"
)
START = 120.0
"""Seconds that an interpreter may take to start."""
OUTPUT_CAP = 4 << 20
"""Bytes of its output that are passed on."""
TAIL = 16_384
"""Bytes at the end of its output that errors are told from."""
LONGEST_ANSWER = 1 << 16
"""Bytes of an answer, beside ``NUMBER`` for each reward."""
NUMBER = 32
STOP = 5.0
"""Seconds until a process that does not end is killed with its watcher."""
NO_ANSWER = "it wrote something in place of an answer"

_STACK = re.compile(r'File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.+)')


class FunctionEnded(Exception):
    """The process is gone, or was ended. ``how`` says what it did; ``where`` is the last line of
    the file that ran, as far as it is known, and ``said`` the last line that it printed."""

    def __init__(self, how: str, where: str | None = None, said: str = "") -> None:
        super().__init__(how)
        self.how = how
        self.where = where
        self.said = said


class FunctionProcess:
    """A Python of its own with the driver's ``sys.path``, in its own session.

    Its environment is the driver's without this program's own secrets (``OWN_VARIABLES``) and the
    variables ``hidden``. Its stdin is empty. What it prints goes to ``printed`` in pieces, up to
    ``OUTPUT_CAP`` bytes in all. ``path`` is the file that it runs. It ends with this object, or
    with the driver, however that ends.
    """

    def __init__(self, path: str, *, hidden: Sequence[str], printed: Callable[[str], None]) -> None:
        self._path = path
        hide = {*OWN_VARIABLES, *hidden}
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", CODE, *map(str, sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name not in hide},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._output = _Output(printed)
        self._reader = threading.Thread(
            target=self._output.read, args=[self._process.stdout], daemon=True
        )
        self._reader.start()
        self._stop = weakref.finalize(self, _stop, self._process, self._channel, os.getpid())
        self._receive(START, cap=LONGEST_ANSWER)

    def ask(
        self, request: Mapping[str, object], *, timeout: float, count: int
    ) -> dict[str, object]:
        """The answer to a request about ``count`` responses.

        Raises:
            FunctionEnded: there is none within ``timeout`` seconds, or it is none. The process has
                ended then, as after any other exception.
        """
        return self._receive(timeout, cap=LONGEST_ANSWER + NUMBER * count, send=frame(request))

    def stop(self) -> None:
        """End it and all that it started."""
        self._stop()
        self._reader.join(STOP)

    def _receive(self, timeout: float, *, cap: int, send: bytes = b"") -> dict[str, object]:
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            answer = self._answer(time.monotonic() + timeout, timeout, cap, send)
            undo.pop_all()
        return answer

    def _answer(self, deadline: float, timeout: float, cap: int, send: bytes) -> dict[str, object]:
        try:
            self._channel.settimeout(timeout)
            self._channel.sendall(send)
            (size,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline))
            if size > cap:
                raise self._ended(f"it wrote {size} bytes in place of an answer")
            answer = json.loads(self._exactly(size, deadline))
        except TimeoutError as error:
            self._process.send_signal(signal.SIGUSR1)  # It tells where it is as it ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP)
            raise self._ended("") from error
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP)
            raise self._ended(_told(self._process.poll())) from error
        except (ValueError, RecursionError) as error:
            raise self._ended(NO_ANSWER) from error
        if not isinstance(answer, dict):
            raise self._ended(NO_ANSWER)
        return answer

    def _exactly(self, size: int, deadline: float) -> bytes:
        """
        Raises:
            EOFError: the process has ended.
        """
        content = bytearray()
        while len(content) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._channel.settimeout(min(left, 1.0))
            try:
                chunk = self._channel.recv(min(size - len(content), 1 << 20))
            except TimeoutError:
                # A process that it started may hold the socket open.
                if self._process.poll() is None:
                    continue
                raise EOFError from None
            if not chunk:
                raise EOFError
            content += chunk
        return bytes(content)

    def _ended(self, how: str) -> FunctionEnded:
        self.stop()
        tail = self._output.tail.decode("utf-8", "replace")
        printed, _, stack = tail.partition("Fatal Python error: ")
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        return FunctionEnded(how, _where(stack, self._path), lines[-1] if lines else "")


class _Output:
    """What a process prints: passed on up to a bound, with the end of it kept."""

    def __init__(self, printed: Callable[[str], None]) -> None:
        self._printed = printed
        self._left = OUTPUT_CAP
        self.tail = b""

    def read(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self.tail = (self.tail + chunk)[-TAIL:]
                if self._left > 0:
                    self._pass_on(chunk)

    def _pass_on(self, chunk: bytes) -> None:
        text = chunk[: self._left].decode("utf-8", "replace")
        self._left -= len(chunk)
        self._printed(text.rstrip("\n"))
        if self._left <= 0:
            self._printed(f"it has printed {OUTPUT_CAP} bytes; no more is kept")


def _where(told: str, path: str) -> str | None:
    """The innermost line, of the thread that failed, in this file."""
    _, _, current = told.partition("Current thread ")
    stack = [each for each in _STACK.finditer(current) if each["file"] == path]
    return place(path, [(each["line"], each["function"]) for each in stack]) if stack else None


def _told(code: int | None) -> str:
    if code is None:
        return "its process closed its connection"
    names = {128 + number: f" ({number.name})" for number in signal.Signals}
    return f"its process ended with exit code {code}{names.get(code, '')}"


def _stop(process: subprocess.Popen[bytes], channel: socket.socket, owner: int) -> None:
    if os.getpid() != owner:
        return  # A copy of the driver is about to exit.
    with contextlib.suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)
    channel.close()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP)
