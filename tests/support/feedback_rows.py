"""Rated responses to the tiny tokenizer's words, and rows as the reader of feedback takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from word_rows import write

from rto.data.feedback.read import load_feedback
from rto.errors import UserError
from rto.sections.data import Data

NESTED = [
    {"prompt": "w0", "responses": [{"text": "w1", "reward": 0.0}, {"text": "w2", "reward": 3.0}]},
    {"prompt": "w3", "responses": [{"text": "w4", "reward": -1.0}, {"text": "w5", "reward": -2.0}]},
]
FLAT = [
    {"prompt": "w0", "response": "w1", "reward": 0.0},
    {"prompt": "w3", "response": "w4", "reward": -1.0},
    {"prompt": "w0", "response": "w2", "reward": 3.0},
    {"prompt": "w3", "response": "w5", "reward": -2.0},
]


def load(folder: Path, rows: list[dict[str, Any]], **data: Any) -> list[Any]:
    found = load_feedback(write(folder / "f.jsonl", rows), split="train", data=Data(**data))
    return [(row.prompt, row.responses) for row in found]


def refused(folder: Path, rows: list[dict[str, Any]], **data: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, rows, **data)
    return str(caught.value).removeprefix(f"{folder / 'f.jsonl'}: ")
