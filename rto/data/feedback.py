"""Rated responses by prompt, whatever layout they are stored in (see rto.data.layouts)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from datasets import Dataset

from rto.data.keys import digest, numbered
from rto.data.layouts import (
    Layout,
    Row,
    find_layout,
    read_prompt,
    read_reward,
    read_text,
    require_rated,
)
from rto.data.sources import load_rows, read_rows
from rto.data.templates import Where


@dataclass(frozen=True)
class Feedback:
    """A prompt and its rated responses, best first; equal rewards keep their order."""

    prompt: object
    responses: tuple[tuple[str, float], ...]
    where: Where


@dataclass(frozen=True)
class Source:
    """Rows of one layout, on disk."""

    name: str
    rows: Dataset
    layout: Layout

    @classmethod
    def open(cls, name: str, *, split: str, layout: str | None) -> Self:
        rows = load_rows(name, split=split)
        return cls(name, rows, find_layout(rows, name, name=layout))

    @functools.cached_property
    def prompt(self) -> str:
        """The column that holds it."""
        return self.layout.prompt_column(self.rows)

    def prompts(self) -> Iterator[object]:
        name = self.prompt
        return (row[name] for row in read_rows(self.rows.select_columns([name])))

    def take(self, numbers: np.ndarray) -> Iterator[Entry]:
        """The rows with these numbers, in this order."""
        rows = self.rows.select_columns([self.prompt, *self.layout.columns]).select(numbers)
        for number, row in zip(numbers, read_rows(rows), strict=True):
            yield Entry(self, int(number), row)


class Entry(NamedTuple):
    """One row of a source."""

    source: Source
    number: int
    row: Row

    @property
    def where(self) -> Where:
        return Where(self.source.name, self.number, self.source.prompt)

    def responses(self) -> Iterator[tuple[str, float]]:
        layout = self.source.layout
        answers = list(layout.answers(self.row))
        if not answers:
            raise Where(self.source.name, self.number, layout.columns[0]).error(
                "is empty: give at least one rated response, or drop the row"
            )
        for answer in answers:
            text = read_text(answer, source=self.source.name, row=self.number)
            yield text, read_reward(answer, source=self.source.name, row=self.number)


def load_feedback(*sources: str, split: str, layout: str | None = None) -> Iterator[Feedback]:
    """Prompts in the order of their first row, each with all its responses in all sources.

    ``layout`` is a name of ``LAYOUTS``; without one the columns tell it. The rows stay on disk:
    a few are read at a time.

    Raises:
        UserError: names the row and the field that cannot be read.
    """
    found = [Source.open(name, split=split, layout=layout) for name in sources]
    for source in found:
        require_rated(source.layout, source.name)
    yield from read_feedback(found)


def read_feedback(sources: Sequence[Source]) -> Iterator[Feedback]:
    """Prompts with their responses; where rewards only rank a row's two, each row for itself."""
    if all(source.layout.rated for source in sources):
        groups = _by_prompt(sources)
    else:
        groups = ([entry] for x in sources for entry in x.take(np.arange(len(x.rows))))
    for members in groups:
        first = members[0]
        asked = read_prompt(first.row[first.source.prompt], first.where)
        responses = [rated for entry in members for rated in entry.responses()]
        yield Feedback(asked, tuple(sorted(responses, key=lambda rated: -rated[1])), first.where)


def _by_prompt(sources: Sequence[Source]) -> Iterator[list[Entry]]:
    """The rows of each prompt, prompts in the order of their first row."""
    sizes = [len(source.rows) for source in sources]
    values = itertools.chain.from_iterable(source.prompts() for source in sources)
    keys = np.fromiter((digest(value) for value in values), dtype="S16", count=sum(sizes))
    prompt = numbered(keys)
    order = np.argsort(prompt, kind="stable")
    starts = np.cumsum([0, *sizes])
    source_of = np.searchsorted(starts, order, side="right") - 1
    taken = [source.take(order[source_of == i] - starts[i]) for i, source in enumerate(sources)]
    entries = zip(prompt[order], source_of, strict=True)
    for _, same in itertools.groupby(entries, key=lambda entry: entry[0]):
        yield [next(taken[i]) for _, i in same]
