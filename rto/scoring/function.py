"""Rewards from a Python file with OpenRLHF's contract.

The file defines ``reward_func(queries, prompts, labels)``. It returns one number per query as a
list, tensor or array, or a mapping that holds them under ``rewards`` (``scores`` and
``extra_logs`` beside it are allowed and not used). The file is code that this process runs.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from rto.errors import RewardProtocolError, UserError
from rto.scoring.combine import finite_rewards


class RewardFunction:
    """A reward_func.py, loaded; ``str()`` tells its absolute path and SHA-256."""

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
            RewardProtocolError: the function returned something else.
        """
        returned = self._function(list(queries), list(prompts), list(labels))
        if isinstance(returned, Mapping):
            if "rewards" not in returned:
                raise RewardProtocolError(f"{self.path}: returned a mapping without 'rewards'")
            returned = returned["rewards"]
        return finite_rewards(_plain(returned), count=len(queries), source=str(self.path))


def _checked_path(path: str) -> Path:
    if "://" in path:
        raise UserError(f"reward.func_path {path}: must be a local file, not a URL")
    resolved = Path(path).expanduser().resolve()
    if not resolved.is_file():
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


def _load(path: Path, code: bytes, sha256: str) -> Callable[..., Any]:
    name = f"rto_reward_func_{sha256[:16]}"
    spec = importlib.util.spec_from_loader(name, _HashedCode(path, code))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles of the file look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        del sys.modules[name]
        raise UserError(f"reward.func_path {path}: cannot be loaded: {error}") from error
    function = vars(module).get("reward_func")
    if not callable(function):
        raise UserError(
            f"reward.func_path {path}: defines no reward_func(queries, prompts, labels)"
        )
    return function


def _plain(rewards: object) -> object:
    """Tensors and arrays, whole or as items, to Python numbers; all else as it is."""
    if isinstance(rewards, (torch.Tensor, numpy.ndarray, numpy.generic)):
        return rewards.tolist()
    if isinstance(rewards, list | tuple):
        return [_plain(item) for item in rewards]
    return rewards
