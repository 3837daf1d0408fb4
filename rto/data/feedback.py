"""Rated responses, whatever layout they are stored in.

- nested: {"prompt", "responses": [{"text", "reward"}, ...]}
- flat: {"prompt" or "instruction", "response", "reward"}, one row per response
- pairs: {"prompt", "chosen", "rejected", "chosen_reward", "rejected_reward"}, or with
  "score_chosen" and "score_rejected"
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from rto.data.sources import load_rows, numbered_rows, require_text
from rto.data.templates import Where
from rto.errors import UserError


@dataclass(frozen=True)
class Feedback:
    """A prompt and its rated responses, best first; equal rewards keep their order."""

    prompt: object
    responses: tuple[tuple[str, float], ...]
    where: Where


@dataclass(frozen=True)
class _Rating:
    """One response and its reward, and the prompt that it answers."""

    prompt: object
    text: str
    reward: float
    where: Where


Adapter = Callable[[Dataset, str], Iterator[_Rating]]


def load_feedback(source: str, *, split: str) -> Iterator[Feedback]:
    """Prompts in the order of their first row, each with all its responses.

    Raises:
        UserError: names the row and the field that cannot be read.
    """
    rows = load_rows(source, split=split)
    ratings = _layout(rows, source)(rows, source)
    for rated in _by_prompt(ratings):
        best_first = sorted(rated, key=lambda rating: -rating.reward)
        responses = tuple((rating.text, rating.reward) for rating in best_first)
        yield Feedback(rated[0].prompt, responses, rated[0].where)


def merged(rows: Iterable[Feedback]) -> Iterator[Feedback]:
    """The same with one row per prompt: sources may share prompts."""
    prompts: dict[str, list[Feedback]] = {}
    for row in rows:
        prompts.setdefault(json.dumps(row.prompt, sort_keys=True), []).append(row)
    for same in prompts.values():
        responses = [rated for row in same for rated in row.responses]
        best_first = tuple(sorted(responses, key=lambda rated: -rated[1]))
        yield Feedback(same[0].prompt, best_first, same[0].where)


PROMPT_COLUMNS = ("prompt", "instruction")
REWARD_COLUMNS = (("chosen_reward", "rejected_reward"), ("score_chosen", "score_rejected"))


def _layout(rows: Dataset, source: str) -> Adapter:
    columns = set(rows.column_names)
    if columns.intersection(PROMPT_COLUMNS):
        if "responses" in columns:
            return _nested
        if {"response", "reward"} <= columns:
            return _flat
        if {"chosen", "rejected"} <= columns and any(columns.issuperset(x) for x in REWARD_COLUMNS):
            return _pairs
    raise UserError(
        f"{source}: no known layout of feedback (columns: {', '.join(rows.column_names)}); give "
        "prompt with responses, or prompt, response, reward, or prompt, chosen, rejected with "
        "chosen_reward and rejected_reward"
    )


def _nested(rows: Dataset, source: str) -> Iterator[_Rating]:
    prompt = _first(rows, PROMPT_COLUMNS)
    for number, row in numbered_rows(rows, [prompt, "responses"], source=source):
        where = Where(source, number, "responses")
        if not row["responses"]:
            raise where.error("is empty: give at least one {text, reward}")
        for i, item in enumerate(row["responses"]):
            field = f"responses[{i}]"
            if not isinstance(item, dict) or not {"text", "reward"} <= item.keys():
                raise Where(source, number, field).error("is not a {text, reward} pair")
            text = require_text(item["text"], source=source, row=number, field=f"{field}.text")
            reward = _number(item["reward"], Where(source, number, field))
            yield _Rating(row[prompt], text, reward, Where(source, number, prompt))


def _flat(rows: Dataset, source: str) -> Iterator[_Rating]:
    prompt = _first(rows, PROMPT_COLUMNS)
    for number, row in numbered_rows(rows, [prompt, "response", "reward"], source=source):
        text = require_text(row["response"], source=source, row=number, field="response")
        reward = _number(row["reward"], Where(source, number, "reward"))
        yield _Rating(row[prompt], text, reward, Where(source, number, prompt))


def _pairs(rows: Dataset, source: str) -> Iterator[_Rating]:
    prompt = _first(rows, PROMPT_COLUMNS)
    rewards = next(names for names in REWARD_COLUMNS if set(names) <= set(rows.column_names))
    sides = list(zip(("chosen", "rejected"), rewards, strict=True))
    columns = [prompt, *(name for side in sides for name in side)]
    for number, row in numbered_rows(rows, columns, source=source):
        for side, reward_column in sides:
            value: Any = row[side]
            last = value[-1] if isinstance(value, list) and value else None
            answer = last.get("content") if isinstance(last, dict) else value
            text = require_text(answer, source=source, row=number, field=side)
            reward = _number(row[reward_column], Where(source, number, reward_column))
            yield _Rating(row[prompt], text, reward, Where(source, number, prompt))


def _by_prompt(ratings: Iterable[_Rating]) -> list[list[_Rating]]:
    prompts: dict[str, list[_Rating]] = {}
    for rating in ratings:
        prompts.setdefault(json.dumps(rating.prompt, sort_keys=True), []).append(rating)
    return list(prompts.values())


def _first(rows: Dataset, names: Iterable[str]) -> str:
    return next(name for name in names if name in rows.column_names)


def _number(value: object, where: Where) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise where.error(f"has reward {value!r}: must be a finite number")
    return float(value)
