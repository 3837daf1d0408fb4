"""Rows of the tiny tokenizer's words, on disk and as token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rto.data.examples import Example


def write(path: Path, rows: Sequence[Any]) -> str:
    """One row per line; returns the path as a setting holds it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def word(i: int) -> int:
    """The token id of word w<i>."""
    return i + 6


def pairs(count: int) -> list[tuple[Example, Example]]:
    """Groups of a finished and an unfinished response, each to a prompt of its own."""
    return [
        (Example((1, i), (2 * i, 2), finished=True), Example((1, i), (2 * i + 1,), finished=False))
        for i in range(10, 10 + count)
    ]
