"""Feedback rows: {"prompt", "responses": [{"text", "reward"}, ...]}."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rto.data.sources import load_rows, numbered_rows, require_text
from rto.data.templates import Where


@dataclass(frozen=True)
class Feedback:
    """A prompt and its rated responses, best first; equal rewards keep their order."""

    prompt: object
    responses: tuple[tuple[str, float], ...]
    where: Where


def load_feedback(source: str, *, split: str) -> Iterator[Feedback]:
    rows = load_rows(source, split=split)
    for number, row in numbered_rows(rows, ["prompt", "responses"], source=source):
        where = Where(source, number, "responses")
        rated = [_rated(item, where, i) for i, item in enumerate(row["responses"] or [])]
        if not rated:
            raise where.error("is empty: give at least one {text, reward}")
        rated.sort(key=lambda item: -item[1])
        yield Feedback(row["prompt"], tuple(rated), Where(source, number, "prompt"))


def _rated(item: object, where: Where, number: int) -> tuple[str, float]:
    item_at = Where(where.source, where.row, f"responses[{number}]")
    if not isinstance(item, dict) or not {"text", "reward"} <= item.keys():
        raise item_at.error("is not a {text, reward} pair")
    text = require_text(
        item["text"], source=where.source, row=where.row, field=f"{item_at.field}.text"
    )
    reward = item["reward"]
    number_like = isinstance(reward, int | float) and not isinstance(reward, bool)
    if not number_like or not math.isfinite(reward):
        raise item_at.error(f"has reward {reward!r}: must be a finite number")
    return text, float(reward)
