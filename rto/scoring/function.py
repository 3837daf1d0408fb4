"""Rewards from a Python file with OpenRLHF's contract.

The file defines ``reward_func(queries, prompts, labels)``. It returns one number per query as a
list, tensor or array, or a mapping that holds them under ``rewards`` (``scores`` and
``extra_logs`` beside it are allowed and not used). The file is code that this process runs.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.abc
import importlib.util
import inspect
import stat
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy
import torch

from rto.errors import RewardProtocolError, RtoError, UserError, foreign
from rto.scoring.finite import finite_rewards
from rto.secrets import shown_url


class RewardFunction:
    """A reward_func.py that was loaded; ``str()`` gives its absolute path and SHA-256."""

    def __init__(self, path: str) -> None:
        self.path = _checked_path(path)
        code = self.path.read_bytes()
        self.sha256 = hashlib.sha256(code).hexdigest()
        self._function = _load(self.path, code, self.sha256)

    def __str__(self) -> str:
        return f"{self.path} (sha256 {self.sha256})"

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
    ) -> list[float]:
        """One finite reward per query; ``queries`` are prompt plus response.

        Raises:
            RewardProtocolError: the function raised, ended the program, or returned something
                else; names the file, and the line where there is one.
        """
        with in_file(self.path, "", error=RewardProtocolError):
            returned = self._function(list(queries), list(prompts), list(labels))
            if isinstance(returned, Mapping):
                if "rewards" not in returned:
                    raise RewardProtocolError(f"{self.path}: returned a mapping without 'rewards'")
                returned = returned["rewards"]
            return finite_rewards(_plain(returned), count=len(queries), source=str(self.path))


class in_file(foreign):
    """The guard around code of one file: its message names the file's last line that ran."""

    def __init__(self, path: Path, setting: str, *, error: type[RtoError] = UserError) -> None:
        super().__init__(f"{setting}{path}", error=error)
        self._path = str(path)

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: object
    ) -> None:
        if cause is not None and (line := self._line(cause)):
            self.problem = f"{self.problem}:{line}"
        super().__exit__(kind, cause, trace)

    def _line(self, cause: BaseException) -> int | None:
        if isinstance(cause, SyntaxError) and cause.filename == self._path:
            return cause.lineno
        frames = traceback.extract_tb(cause.__traceback__)
        return next((f.lineno for f in reversed(frames) if f.filename == self._path), None)


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
    try:
        with in_file(path, "reward.func_path "):
            spec.loader.exec_module(module)
            # What it defines may be an object that answers questions about it with code.
            return _checked_function(path, vars(module), ast.parse(code))
    except UserError:
        del sys.modules[name]
        raise


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
    if isinstance(rewards, (torch.Tensor, numpy.ndarray, numpy.generic)):
        return rewards.tolist()
    if isinstance(rewards, list | tuple):
        return [_plain(item) for item in rewards]
    return rewards
