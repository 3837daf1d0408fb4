"""Demonstrations for supervised fine-tuning."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rto.data.conversations import split_conversation
from rto.data.examples import Example, Limit, read_responses
from rto.data.feedback.read import load_feedback, tallied
from rto.data.sources import load_rows, numbered_rows, require_text
from rto.data.storage.arrow import cache_home
from rto.data.storage.groups import Groups, read_examples, read_groups, write_groups
from rto.data.templates import Template, Where
from rto.errors import UserError
from rto.sections.data import Data


@dataclass(frozen=True)
class ExampleDataset:
    """Groups of one example, and how many rows were dropped: their prompt did not fit, or it has
    no response with a good verdict.

    ``num_merged`` responses of the prompts that are left repeated another one.
    """

    examples: Groups[tuple[Example, ...]]
    num_too_long: int
    num_disliked: int = 0
    num_merged: int = 0


def load_examples(data: Data, template: Template, *, seed: int) -> ExampleDataset:
    """Rows of ``data.dataset``, or the best responses of ``data.feedback``."""
    limit = Limit.of(data, encoder_decoder=template.encoder_decoder)
    merged, disliked = array("q"), array("b")
    parts = [_stored(name, data, template, limit) for name in data.dataset]
    if not parts and data.feedback is not None:
        parts = [_best(data.feedback, data, template, limit, merged, disliked)]
    if not parts:
        raise UserError("no rows: set data.dataset (or data.feedback)")
    groups = [_each_alone(part) for part in parts]
    loaded = read_groups(groups, read_examples, data, seed=seed)
    examples = loaded.select(np.flatnonzero(loaded.sizes))
    num_disliked = int(np.asarray(disliked)[loaded.numbers].sum()) if disliked else 0
    num_too_long = len(loaded) - len(examples) - num_disliked
    if not examples:
        raise UserError(
            f"{', '.join(data.dataset) or data.feedback}: no row is left of {len(loaded)}: "
            f"{num_too_long} have a prompt too long for data.max_len, {num_disliked} no response "
            "with a good verdict"
        )
    num_merged = int(np.asarray(merged)[examples.numbers].sum()) if merged else 0
    return ExampleDataset(examples, num_too_long, num_disliked, num_merged)


def _each_alone(part: Iterator[Example | None]) -> Iterator[tuple[Example] | None]:
    """A group of one for each example; None for a row that is left out."""
    return ((example,) if example else None for example in part)


def load_texts(source: str, data: Data, template: Template) -> Groups[tuple[Example, ...]]:
    """Plain text for the ptx loss: column ``data.input_key`` of ``source``, cut to data.max_len."""
    rows = load_rows(source, data, split=data.dataset_split)
    limit = Limit(data.max_len, data.on_long_prompt)
    texts = (
        (_text(row[data.input_key], template, limit, Where(source, number, data.input_key)),)
        for number, row in numbered_rows(rows, [data.input_key], source=source)
    )
    return Groups.of([write_groups(texts, cache_home(data.cache_dir))], read_examples)


def _stored(source: str, data: Data, template: Template, limit: Limit) -> Iterator[Example | None]:
    rows = load_rows(source, data, split=data.dataset_split)
    columns = [data.input_key] if data.output_key is None else [data.input_key, data.output_key]
    for number, row in numbered_rows(rows, columns, source=source):
        where = Where(source, number, data.input_key)
        value = row[data.input_key]
        if data.output_key is not None:
            at = Where(source, number, data.output_key)
            prompt, answer = split_conversation(value, row[data.output_key], at)
        elif isinstance(value, list):
            prompt, answer = split_conversation(None, value, where)
        else:
            yield _text(value, template, limit, where)
            continue
        yield _answered(prompt, answer, template, limit, where)


def _best(
    source: str,
    data: Data,
    template: Template,
    limit: Limit,
    merged: array[int],
    disliked: array[int],
) -> Iterator[Example | None]:
    """The best response to each prompt; None, too, where its verdict is the bad one."""
    for row in tallied(load_feedback(source, split=data.dataset_split, data=data), merged):
        disliked.append(row.disliked)
        best = row.responses[0][0]
        yield (None if row.disliked else _answered(row.prompt, best, template, limit, row.where))


def _answered(
    prompt: object, answer: str, template: Template, limit: Limit, where: Where
) -> Example | None:
    responses = read_responses(prompt, [answer], template, limit, where)
    return responses[0] if responses else None


def _text(value: object, template: Template, limit: Limit, where: Where) -> Example:
    """A text without a prompt: BoS, or else its first token, stands in for one."""
    text = require_text(value, source=where.source, row=where.row, field=where.field)
    template.demand_prompt(where, "set data.output_key")
    ids = template.demand_tokens(template.text_ids(text), where)
    bos = template.bos_token_id
    prompt, response = ((bos,), ids) if bos is not None else (ids[:1], ids[1:])
    return limit.example(prompt, response, eos=template.eos_token_id)
