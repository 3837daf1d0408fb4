"""What a data set costs in Python does not follow its size."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rto.data.batches import OfflineBatches
from rto.data.loaders.rated import load_rated, reward_scale, unrelated_rows
from rto.data.storage.groups import split_by_prompt
from rto.data.templates import Template
from rto.models.load import load_tokenizer
from rto.sections.data import Data

TOKENS = 50
"""Of a response; as a tuple of Python's it takes 8 bytes for each."""


@dataclass(frozen=True)
class Letters(Template):
    """A token for each character: the tokenizer's own time is not the matter here."""

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def _following(self, text: str) -> list[int]:
        return list(text.encode())


def write_flat(path: Path, num_rows: int) -> str:
    """Four responses to a prompt, never side by side."""
    row = '{"prompt": "prompt %d", "response": "%0' + str(TOKENS) + 'd", "reward": %d}\n'
    num_prompts = num_rows // 4
    lines = (row % (i % num_prompts, i, i) for i in range(num_rows))
    with path.open("w") as file:
        while chunk := "".join(itertools.islice(lines, 10_000)):
            file.write(chunk)
    return str(path)


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most bytes that Python and numpy held at once, as the one item of the list."""
    found: list[int] = []
    tracemalloc.start()
    try:
        yield found
        found.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def rated_peak(source: str, template: Template, num_rows: int) -> int:
    """Of loading, scaling, splitting, shuffling and KTO's mismatched pairs."""
    data = Data(feedback=source)
    with peak() as found:
        groups = load_rated(data, template, min_responses=2).groups
        train, held_out = split_by_prompt(groups, ratio=0.1, seed=0)
        scaled = train.map(reward_scale(train, "within_prompt").apply)
        batches = OfflineBatches(scaled, batch_size=8, seed=0, epochs=1, pad_token_id=0)
        _, batch = next(iter(batches))
        assert unrelated_rows(held_out, max_len=data.max_len)[-1].response_ids
    assert (len(groups), len(held_out)) == (num_rows // 4, num_rows // 40)
    assert len(batches.visited) == len(train) // 8 * 8
    assert batch.tokens.response_ids.shape == (32, TOKENS + 1)
    return found[0]


def test_a_row_of_feedback_costs_the_bytes_of_its_indices(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times the rows; the rest of the bound is what a batch of the writer holds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    template = Letters(load_tokenizer(str(tiny_model_dir)))
    small, large = 10_000, 30_000
    peaks = {}
    for num_rows in (small, large):
        source = write_flat(tmp_path / f"{num_rows}.jsonl", num_rows)
        peaks[num_rows] = rated_peak(source, template, num_rows)
    assert peaks[small] < 8e6
    assert peaks[large] - peaks[small] < 80 * (large - small)
    assert not list(tmp_path.glob("rto/*"))
