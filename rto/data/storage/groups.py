"""Groups of examples on disk: the responses to one prompt, or a pair of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
import pyarrow as pa

from rto.data.examples import Example, Pair, Rated, RatedGroup
from rto.data.sampler import permutation
from rto.data.sources import mix
from rto.data.storage.arrow import Lazy, cache_home, flat, lengths, write_table
from rto.data.storage.keys import numbered
from rto.errors import UserError
from rto.sections.data import Data

SCHEMA = pa.schema(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.list_(pa.int32()))),
        ("finished", pa.list_(pa.bool_())),
        ("rewards", pa.list_(pa.float64())),
        ("prompt_cut", pa.bool_()),
    ]
)
"""Columns of a group. A prompt that leaves no room for responses gives a group without any."""


class StoredGroup(TypedDict):
    """A row of ``SCHEMA`` in Python."""

    prompt_ids: list[int]
    response_ids: list[list[int]]
    finished: list[bool]
    rewards: list[float]


Group = TypeVar("Group", bound=Sequence[Example])


def write_groups(groups: Iterable[Sequence[Example] | None], folder: Path) -> pa.Table:
    """Groups as a table on disk (see ``write_table``), one row each."""
    return write_table((_row(group or ()) for group in groups), SCHEMA, folder)


@dataclass(frozen=True, eq=False)
class Groups(Lazy[Group]):
    """Rows of ``table``, those numbered in ``numbers`` [N] in that order, as ``make`` reads them.

    What is asked of all of them at once are arrays of a few bytes a group or response.
    """

    table: pa.Table
    make: Callable[[StoredGroup], Group]
    numbers: np.ndarray

    @classmethod
    def of(cls, tables: Sequence[pa.Table], make: Callable[[StoredGroup], Group]) -> Groups[Group]:
        """All groups of the tables, end to end."""
        table = pa.concat_tables(tables)
        return Groups(table, make, np.arange(len(table)))

    def __len__(self) -> int:
        return len(self.numbers)

    def item(self, index: int) -> Group:
        (row,) = self.table.slice(self.numbers[index], 1).to_pylist()
        return self.make(row)

    def select(self, numbers: Sequence[int] | np.ndarray) -> Groups[Group]:
        """The groups with these numbers; the rows stay where they are."""
        return replace(self, numbers=self.numbers[np.asarray(numbers, np.int64)])

    def map(self, change: Callable[[Group], Group]) -> Groups[Group]:
        """The same groups, each changed when it is read."""
        make = self.make
        return replace(self, make=lambda row: change(make(row)))

    @property
    def sizes(self) -> np.ndarray:
        """Responses of each group [N]."""
        return lengths(self.table["response_ids"])[self.numbers]

    @property
    def rewards(self) -> np.ndarray:
        """As stored, of each response of each group [sum of ``sizes``], float64."""
        return flat(self.table["rewards"].take(pa.array(self.numbers)))

    @property
    def num_cut(self) -> int:
        """Groups whose prompt was cut to fit."""
        return int(self.table["prompt_cut"].to_numpy()[self.numbers].sum())

    @property
    def prompts(self) -> np.ndarray:
        """A number for each group's prompt [N], from 0 as they first appear."""
        column = self.table["prompt_ids"]
        ids = (column[i].values.to_numpy() for i in self.numbers)
        keys = (hashlib.blake2b(each.tobytes(), digest_size=16).digest() for each in ids)
        return numbered(np.fromiter(keys, "S16", len(self)))

    @property
    def rows(self) -> StoredRows:
        """The examples of all groups, end to end."""
        return StoredRows(self, np.concatenate([[0], self.sizes.cumsum()]))


@dataclass(frozen=True, eq=False)
class StoredRows(Lazy[Example]):
    """The examples of ``groups``, end to end: those of group g are ``starts[g]`` to
    ``starts[g + 1]``."""

    groups: Sequence[Sequence[Example]]
    starts: np.ndarray

    def __len__(self) -> int:
        return int(self.starts[-1])

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of the groups with these numbers, in this order."""
        sizes = np.diff(self.starts)[numbers]
        before = sizes.cumsum() - sizes
        return np.repeat(self.starts[numbers] - before, sizes) + np.arange(sizes.sum())

    def item(self, index: int) -> Example:
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.groups[group][index - int(self.starts[group])]

    def __iter__(self) -> Iterator[Example]:
        for group in self.groups:
            yield from group


def read_examples(row: StoredGroup) -> tuple[Example, ...]:
    prompt = tuple(row["prompt_ids"])
    responses = zip(row["response_ids"], row["finished"], strict=True)
    return tuple(Example(prompt, tuple(ids), finished) for ids, finished in responses)


def read_pair(row: StoredGroup) -> Pair:
    return Pair(*read_examples(row))


def read_rated(row: StoredGroup) -> RatedGroup:
    prompt = tuple(row["prompt_ids"])
    responses = zip(row["response_ids"], row["finished"], row["rewards"], strict=True)
    return tuple(Rated(prompt, tuple(ids), finished, reward) for ids, finished, reward in responses)


def read_groups(
    parts: Sequence[Iterable[Sequence[Example] | None]],
    make: Callable[[StoredGroup], Group],
    data: Data,
    *,
    seed: int,
) -> Groups[Group]:
    """The groups of several sources, mixed as ``data`` says; None becomes a group of none."""
    tables = [write_groups(part, cache_home(data.cache_dir)) for part in parts]
    order = mix([len(table) for table in tables], probs=data.dataset_probs, seed=seed)
    return Groups.of(tables, make).select(order[: data.max_samples])


def split_by_prompt(
    groups: Groups[Group], *, ratio: float, seed: int, min_train: int = 1
) -> tuple[Groups[Group], Groups[Group]]:
    """(train, eval): all rows of one prompt fall on the same side.

    A share that rounds to no prompt is one prompt, where ``min_train`` rows are left without it.
    """
    prompts = groups.prompts
    count = int(prompts.max()) + 1
    size = round(ratio * count)
    if size >= count:
        raise UserError(f"data.eval_ratio {ratio} of {count} prompts leaves none to train on")
    order = permutation(count, seed=seed, epoch=0)
    if size == 0 and np.count_nonzero(prompts != order[0]) >= min_train:
        size = 1
    held_out = np.isin(prompts, order[:size])
    return groups.select(np.flatnonzero(~held_out)), groups.select(np.flatnonzero(held_out))


def _row(group: Sequence[Example]) -> dict[str, object]:
    return {
        "prompt_ids": np.array(group[0].prompt_ids if group else (), np.int32),
        "response_ids": [np.array(example.response_ids, np.int32) for example in group],
        "finished": [example.finished for example in group],
        "rewards": [example.reward for example in group if isinstance(example, Rated)],
        "prompt_cut": any(example.prompt_cut for example in group),
    }
