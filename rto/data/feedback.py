"""Rated responses by prompt, whatever layout they are stored in (see rto.data.layouts)."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

import numpy as np
from datasets import Dataset

from rto.data.layouts import (
    Layout,
    Row,
    find_layout,
    read_prompt,
    read_reward,
    read_text,
    require_rated,
)
from rto.data.sources import load_rows
from rto.data.templates import Where


@dataclass(frozen=True)
class Feedback:
    """A prompt and its rated responses, best first; equal rewards keep their order."""

    prompt: object
    responses: tuple[tuple[str, float], ...]
    where: Where


def load_feedback(source: str, *, split: str, layout: str | None = None) -> Iterator[Feedback]:
    """Prompts in the order of their first row, each with all its responses.

    ``layout`` is a name of ``LAYOUTS``; without one the columns tell it. The rows stay on disk:
    one prompt's are read at a time.

    Raises:
        UserError: names the row and the field that cannot be read.
    """
    rows = load_rows(source, split=split)
    found = find_layout(rows, source, name=layout)
    require_rated(found, source)
    yield from read_feedback(rows, found, source)


def read_feedback(rows: Dataset, layout: Layout, source: str) -> Iterator[Feedback]:
    """Prompts with their responses; where rewards only rank a row's two, each row for itself."""
    prompt = layout.prompt_column(rows)
    columns = rows.select_columns([prompt, *layout.columns])
    for members in _by_prompt(columns, prompt) if layout.rated else _one_by_one(columns):
        where = Where(source, members[0][0], prompt)
        asked = read_prompt(members[0][1][prompt], where)
        responses = [
            rated for number, row in members for rated in _responses(row, layout, source, number)
        ]
        yield Feedback(asked, _best_first(responses), where)


def merged(rows: Iterable[Feedback]) -> Iterator[Feedback]:
    """The same with one row per prompt: sources may share prompts."""
    prompts: dict[bytes, list[Feedback]] = {}
    for row in rows:
        prompts.setdefault(digest(row.prompt), []).append(row)
    for same in prompts.values():
        responses = [rated for row in same for rated in row.responses]
        yield Feedback(same[0].prompt, _best_first(responses), same[0].where)


def digest(*values: object) -> bytes:
    """A number of 16 bytes that stands for these texts or lists of messages."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _responses(row: Row, layout: Layout, source: str, number: int) -> Iterator[tuple[str, float]]:
    answers = list(layout.answers(row))
    if not answers:
        raise Where(source, number, layout.columns[0]).error(
            "is empty: give at least one rated response, or drop the row"
        )
    for answer in answers:
        text = read_text(answer, source=source, row=number)
        yield text, read_reward(answer, source=source, row=number)


def _best_first(responses: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(responses, key=lambda rated: -rated[1]))


def _by_prompt(rows: Dataset, prompt: str) -> Iterator[list[tuple[int, Row]]]:
    """(row number, row) of each prompt, prompts in the order of their first row."""
    prompts = (cast(Row, row)[prompt] for row in rows.select_columns([prompt]))
    keys = np.fromiter((digest(value) for value in prompts), dtype="S16", count=len(rows))
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    first_row = first[group]
    order = np.argsort(first_row, kind="stable")
    numbered = zip(first_row[order], order, rows.select(order), strict=True)
    for _, members in itertools.groupby(numbered, key=itemgetter(0)):
        yield [(int(number), cast(dict[str, Any], row)) for _, number, row in members]


def _one_by_one(rows: Dataset) -> Iterator[list[tuple[int, Row]]]:
    for number, row in enumerate(rows):
        yield [(number, cast(dict[str, Any], row))]
