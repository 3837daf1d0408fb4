"""Read rated responses, grouped by prompt, from any layout of rto.data.feedback.layouts."""

from __future__ import annotations

import functools
import itertools
import statistics
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from datasets import Dataset

from rto.data.feedback.layouts import (
    Layout,
    Row,
    find_layout,
    read_answer,
    read_prompt,
    read_reward,
)
from rto.data.sources import load_rows, read_rows
from rto.data.storage.keys import digest, numbered
from rto.data.storage.row_files import may_hold_lists
from rto.data.templates import Where
from rto.errors import foreign
from rto.sections.data import Data

RatedText = tuple[str, float]


@dataclass(frozen=True)
class Feedback:
    """A prompt and its rated responses, best first; equal rewards keep their order.

    ``num_merged`` responses stood there before, with the same text. ``binary`` rewards are
    verdicts, 1 and 0.
    """

    prompt: object
    responses: tuple[RatedText, ...]
    where: Where
    num_merged: int = 0
    binary: bool = False

    @property
    def disliked(self) -> bool:
        """Whether no response has a good verdict: the best one is no demonstration then."""
        return self.binary and self.responses[0][1] <= 0


@dataclass(frozen=True)
class Source:
    """Rows of one layout, on disk."""

    name: str
    rows: Dataset
    layout: Layout

    @classmethod
    def open(cls, name: str, data: Data, *, split: str) -> Self:
        rows = load_rows(name, data, split=split)
        return cls(name, rows, find_layout(rows, name, name=data.layout))

    @functools.cached_property
    def prompt(self) -> str:
        """The column that holds it."""
        return self.layout.prompt_column(self.rows)

    def prompts(self) -> Iterator[object]:
        """What each row's responses answer. Only the column of prompts is read where no response
        can add turns to it."""
        if self.layout.prompted and not may_hold_lists(self.rows, self.layout.columns):
            name = self.prompt
            return (row[name] for row in self._read(self.rows.select_columns([name])))
        return (entry.read().prompt for entry in self.take(np.arange(len(self.rows))))

    def take(self, numbers: np.ndarray) -> Iterator[Entry]:
        """The rows with these numbers, in this order."""
        rows = self.rows.select_columns(self.layout.needed(self.rows)).select(numbers)
        for number, row in zip(numbers, self._read(rows), strict=True):
            yield Entry(self, int(number), row)

    def _read(self, rows: Dataset) -> Iterator[Row]:
        with foreign(f"{self.name}: cannot read a row"):
            yield from read_rows(rows)


class Entry(NamedTuple):
    """One row of a source."""

    source: Source
    number: int
    row: Row

    @property
    def where(self) -> Where:
        return Where(self.source.name, self.number, self.source.prompt)

    def read(self) -> Feedback:
        """The row's prompt, with the turns that its responses add, and its responses in order.

        Raises:
            UserError: a prompt, a response or a reward cannot be read, or they answer several
                prompts.
        """
        layout, where = self.source.layout, self.where
        prompt = read_prompt(self.row[where.field], where) if layout.prompted else None
        answers = list(layout.answers(self.row))
        if not answers:
            raise replace(where, field=layout.columns[0]).error(
                "is empty: give at least one rated response, or drop the row"
            )
        read = [read_answer(answer, prompt, where) for answer in answers]
        for (asked, _), answer in zip(read, answers, strict=True):
            if asked != read[0][0]:
                raise replace(where, field=answer.field).error(
                    f"and '{answers[0].field}' answer different prompts: their turns before the "
                    "last must be the same"
                )
        rewards = [read_reward(answer, layout, where) for answer in answers]
        responses = tuple((text, r) for (_, text), r in zip(read, rewards, strict=True))
        return Feedback(read[0][0], responses, where, binary=layout.binary)


def load_feedback(
    *sources: str, split: str, data: Data | None = None, keep_pairs: bool = False
) -> Iterator[Feedback]:
    """Prompts in the order of their first row, each with all its responses in all sources.

    Of ``data`` are the layout, which the columns tell where it is not given, and what
    ``load_rows`` reads. The rows stay on disk: a few are read at a time. ``keep_pairs``: see
    ``read_feedback``.

    Raises:
        UserError: names the row and the field that cannot be read.
    """
    data = data or Data()
    found = [Source.open(name, data, split=split) for name in sources]
    yield from read_feedback(found, keep_pairs=keep_pairs)


def read_feedback(
    sources: Sequence[Source], *, keep_pairs: bool = False, merge: bool = True
) -> Iterator[Feedback]:
    """Prompts with their responses.

    ``merge`` gives each text of a prompt once (see ``merged``). ``keep_pairs``: where the rewards
    of a source only rank a row's two responses, each row stays for itself.
    """
    if keep_pairs and not all(source.layout.rated for source in sources):
        yield from _row_by_row(sources)
        return
    for members in _by_prompt(sources):
        rows = [entry.read() for entry in members]
        responses = [rated for row in rows for rated in row.responses]
        best_first = tuple(sorted(responses, key=lambda rated: -rated[1]))
        found = replace(rows[0], responses=best_first, binary=all(row.binary for row in rows))
        yield merged(found) if merge else found


def _row_by_row(sources: Sequence[Source]) -> Iterator[Feedback]:
    for source in sources:
        yield from (entry.read() for entry in source.take(np.arange(len(source.rows))))


def tallied(rows: Iterable[Feedback], merged: array[int]) -> Iterator[Feedback]:
    """The same rows; how many responses of each were merged is added to ``merged``."""
    for row in rows:
        merged.append(row.num_merged)
        yield row


def merged(row: Feedback) -> Feedback:
    """Each text once, with the mean of its rewards. Of verdicts, which have no mean, equal ones
    become one; a text that has both keeps one of each."""
    rewards: dict[tuple[str, float | None], list[float]] = {}
    for text, reward in row.responses:
        rewards.setdefault((text, reward if row.binary else None), []).append(reward)
    means = [(text, statistics.fmean(values)) for (text, _), values in rewards.items()]
    num_merged = len(row.responses) - len(means)
    means.sort(key=lambda rated: -rated[1])
    return replace(row, responses=tuple(means), num_merged=num_merged) if num_merged else row


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
