"""The process that runs the file of a reward function, and the one that watches over it.

The watcher runs nothing of the file. It waits until the worker ends or the driver hangs up, then
kills all that the worker started. A frame is a length and JSON, in both directions: what comes from
here was made by code of somebody else's, and JSON runs none. This module imports nothing heavy, so
the process starts in a moment.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import difflib
import faulthandler
import importlib.abc
import importlib.util
import inspect
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rto.errors import RewardProtocolError, RtoError, UserError, told
from rto.scoring.finite import finite_rewards

LENGTH = struct.Struct("!Q")
SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36
"""Of Linux' prctl."""
POLL = 100
"""Milliseconds between two looks at the worker."""
GRACE = 1.0
"""Seconds that a worker has to end by itself when the driver has hung up."""
TRACE = 8000
"""Characters of a traceback that are kept: its end."""
Request = Mapping[str, Any]
"""What the driver sends."""


def frame(message: Mapping[str, object]) -> bytes:
    body = json.dumps(message).encode()
    return LENGTH.pack(len(body)) + body


def main() -> NoReturn:
    """Watch over a worker that answers on the socket which is this process's stdin."""
    _prctl(SET_CHILD_SUBREAPER, 1)
    worker = os.fork()
    if worker == 0:
        _work()
        sys.exit()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: _kill(worker, signal.SIGABRT))
    code = _until_over(worker)
    _kill_all(worker)
    # As shells have it: 128 and the signal's number.
    os._exit(code if code >= 0 else 128 - code)


def _until_over(worker: int) -> int:
    """The exit code of the worker, negative for a signal; 0 where the driver hung up first."""
    driver = select.poll()
    driver.register(0, 0)  # No event but the hang-up, which is always told.
    while not driver.poll(POLL):
        if (code := _reaped(worker)) is not None:
            return code
    last = time.monotonic() + GRACE
    while _reaped(worker) is None and time.monotonic() < last:
        time.sleep(0.01)
    return 0


def _reaped(worker: int) -> int | None:
    """The exit code of the worker once it has ended. What it left behind is buried on the way."""
    child = -1
    while child:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == worker:
            return os.waitstatus_to_exitcode(status)
    return None


def _kill_all(worker: int) -> None:
    """A process whose parent died is a child of this one, whatever session it is in."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if not children.exists():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker, signal.SIGKILL)
        return
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in children.read_text().split():
                _kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


def _kill(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _work() -> None:
    """Load the file of the first request and answer all that follow, until the driver hangs up."""
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.setsid()
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    _pass_by(signal.SIGINT, signal.SIGTERM)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    own, answers = os.getpid(), Answers()
    channel.sendall(frame({"started": True}))
    while (request := received(channel)) is not None:
        answer = _outcome(answers, request)
        if os.getpid() != own:
            os._exit(0)  # A copy that the function made of this process, and that came back.
        channel.sendall(frame(answer))


def _pass_by(*numbers: signal.Signals) -> None:
    """Signals that end a whole job are for the driver, which ends this process when it is done. A
    process that the function starts takes them as ever."""
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    os.register_at_fork(after_in_child=lambda: [signal.signal(*each) for each in before.items()])


def received(channel: socket.socket) -> Request | None:
    size = _exactly(channel, LENGTH.size)
    if not size:
        return None
    return json.loads(_exactly(channel, LENGTH.unpack(size)[0]))


def _exactly(channel: socket.socket, size: int) -> bytes:
    """Empty where the driver has hung up."""
    content = bytearray()
    while len(content) < size:
        chunk = channel.recv(size - len(content))
        if not chunk:
            return b""
        content += chunk
    return bytes(content)


def _outcome(answers: Answers, request: Request) -> dict[str, object]:
    """The rewards, or one line about what went wrong and the traceback of it."""
    try:
        return {"call": request["call"], "rewards": answers.to(request)}
    except RtoError as error:
        cause = error.__cause__
        trace = "" if cause is None else "".join(traceback.format_exception(cause))
        return {"call": request["call"], "error": str(error), "trace": trace[-TRACE:]}


class Answers:
    """The function once it is loaded."""

    def __init__(self) -> None:
        self._path = Path()
        self._function: Callable[..., object] | None = None

    def to(self, request: Request) -> list[float]:
        """
        Raises:
            UserError: the file holds no reward function.
            RewardProtocolError: the function raised, or gave something else than rewards.
        """
        if self._function is not None:
            return self._rewards(self._function, request)
        self._path = Path(request["path"])
        sys.argv = [str(self._path)]
        if request["memory"] is not None:
            resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
        self._function = _load(self._path, request["code"].encode("latin-1"), request["sha256"])
        return []

    def _rewards(self, function: Callable[..., object], request: Request) -> list[float]:
        count = len(request["queries"])  # The function may empty the list.
        with in_file(self._path, error=RewardProtocolError):
            returned = function(request["queries"], request["prompts"], request["labels"])
            if isinstance(returned, Mapping):
                if "rewards" not in returned:
                    raise RewardProtocolError(f"{self._path}: returned a mapping without 'rewards'")
                returned = returned["rewards"]
            return finite_rewards(_plain(returned), count=count, source=str(self._path))


class in_file:
    """The guard around code of one file: whatever it raises becomes one line with the last line of
    the file that ran, and the function which that is in."""

    def __init__(self, path: Path, setting: str = "", *, error: type[RtoError] = UserError) -> None:
        self._path = str(path)
        self._setting = setting
        self._error = error

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: object
    ) -> None:
        # Not a generator: contextlib passes a StopIteration on where the new error is caused by it.
        if cause is None or isinstance(cause, RtoError):
            return
        raise self._error(f"{self._setting}{self._place(cause)}: {told(cause)}") from cause

    def _place(self, cause: BaseException) -> str:
        if isinstance(cause, SyntaxError) and cause.filename == self._path:
            return f"{self._path}:{cause.lineno}"
        frames = traceback.extract_tb(cause.__traceback__)
        own = [(each.lineno, each.name) for each in frames if each.filename == self._path]
        return place(self._path, own[::-1])


def place(path: str, frames: Sequence[tuple[int | str | None, str]]) -> str:
    """``file:line: function``, by the (line, name) of each frame in the file, innermost first. What
    has no name of its own, as a comprehension, is part of the function around it."""
    if not frames:
        return path
    function = next((name for _, name in frames if not name.startswith("<")), None)
    return f"{path}:{frames[0][0]}" + (f": {function}" if function else "")


class _HashedCode(importlib.abc.SourceLoader):
    """Runs the very bytes that were hashed: no second read, no bytecode cache."""

    def __init__(self, path: Path, code: bytes) -> None:
        self._path, self._code = path, code

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._code


def _load(path: Path, code: bytes, sha256: str) -> Callable[..., object]:
    name = f"rto_reward_func_{sha256[:16]}"
    spec = importlib.util.spec_from_loader(name, _HashedCode(path, code))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles of the file look their module up by name.
    sys.modules[name] = module
    with in_file(path, "reward.func_path "):
        spec.loader.exec_module(module)
        # What it defines may be an object that answers questions about it with code.
        return _checked_function(path, vars(module), ast.parse(code))


def _checked_function(
    path: Path, names: Mapping[str, object], source: ast.Module
) -> Callable[..., object]:
    """``reward_func`` among the names of the file.

    Raises:
        UserError: there is none, or it does not take three lists and return a value.
    """
    if "reward_func" not in names:
        defined = [node.name for node in source.body if isinstance(node, ast.FunctionDef)]
        near = difflib.get_close_matches("reward_func", defined, 1, 0.4)
        hint = f": rename {near[0]}" if near else ""
        raise UserError(
            f"reward.func_path {path}: defines no reward_func(queries, prompts, labels){hint}"
        )
    function = names["reward_func"]
    problem = _problem(function)
    if problem is not None:
        raise UserError(
            f"reward.func_path {path}:{_line_of_definition(source)}: reward_func {problem}: write "
            "def reward_func(queries, prompts, labels) that returns one number per query"
        )
    assert callable(function)
    return function


def _problem(function: object) -> str | None:
    """Why the value called reward_func is no reward function; None where it may be one."""
    if inspect.isclass(function):
        return "is a class"
    if not callable(function):
        return f"is no function but a {type(function).__name__}"
    for each in (function, type(function).__call__):
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            return "is async"
        if inspect.isgeneratorfunction(each):
            return "yields"
    try:
        inspect.signature(function).bind([], [], [])
    except TypeError as error:
        return f"cannot be called with queries, prompts and labels ({error})"
    except ValueError:
        # A compiled function that does not tell its arguments.
        return None
    return None


def _line_of_definition(source: ast.Module) -> int:
    """Where the file binds reward_func last."""
    lines = [1]
    for node in ast.walk(source):
        match node:
            case (
                ast.FunctionDef(name="reward_func")
                | ast.AsyncFunctionDef(name="reward_func")
                | ast.ClassDef(name="reward_func")
                | ast.Name(id="reward_func", ctx=ast.Store())
            ):
                lines.append(node.lineno)
    return lines[-1]


def _plain(rewards: object) -> object:
    """Tensors and arrays, whole or as items, to Python numbers; all else as it is."""
    if isinstance(rewards, _array_types()):
        return rewards.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(rewards, list | tuple):
        return [_plain(item) for item in rewards]
    return rewards


def _array_types() -> tuple[type, ...]:
    """Those of the libraries that the file has imported: nobody else could make one."""
    names = {"torch": ("Tensor",), "numpy": ("ndarray", "generic")}
    return tuple(
        getattr(sys.modules[library], name)
        for library, types in names.items()
        if library in sys.modules
        for name in types
    )
