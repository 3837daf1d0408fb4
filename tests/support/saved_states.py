"""What ranks saved of their engines, compared to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def states(folder: Path) -> dict[str, Any]:
    """Everything that is in a folder's files of tensors, by their paths in it."""
    return {
        str(path.relative_to(folder)): torch.load(path, weights_only=False)
        for path in sorted(folder.rglob("*.pt"))
    }


def same(first: Any, second: Any) -> bool:
    """Whether two trees are equal: tensors to the last bit, and anything else that has a value."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, int | float | str | bytes | None):
        return first == second
    return type(first) is type(second)
