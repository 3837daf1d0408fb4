"""Pairs of responses for DPO and reward models."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rto.data.conversations import split_conversation
from rto.data.examples import Example, Limit, Pair, read_responses
from rto.data.feedback.read import load_feedback, tallied
from rto.data.sources import load_rows, numbered_rows, require_text
from rto.data.storage.groups import Groups, read_groups, read_pair
from rto.data.templates import Template, Where
from rto.errors import UserError
from rto.sections.data import Data


@dataclass(frozen=True)
class PairDataset:
    """The pairs that can be used. Dropped are rows whose prompt leaves no room, and those whose
    two responses are the same tokens, for they prefer none.

    ``num_merged`` responses of all prompts repeated another one.
    """

    pairs: Groups[Pair]
    num_too_long: int
    num_equal: int
    num_merged: int = 0


def load_pairs(data: Data, template: Template, *, seed: int) -> PairDataset:
    """Pairs of ``data.dataset``, or of ``data.feedback`` where that is not given."""
    limit = Limit.of(data, encoder_decoder=template.encoder_decoder)
    merged = array("q")
    if data.dataset:
        parts = [_stored(name, data, template, limit) for name in data.dataset]
    elif data.feedback is not None:
        parts = [_rated(data.feedback, data, template, limit, merged)]
    else:
        raise UserError("no pairs: set data.dataset (or data.feedback)")
    loaded = read_groups([map(_distinct, part) for part in parts], read_pair, data, seed=seed)
    pairs = loaded.select(np.flatnonzero(loaded.sizes == 2))
    num_too_long, num_equal = (int((loaded.sizes == size).sum()) for size in (0, 1))
    if not pairs:
        raise UserError(
            f"{', '.join(data.dataset) or data.feedback}: no pair is left of {len(loaded)} rows: "
            f"{num_too_long} have a prompt too long for data.max_len, {num_equal} have "
            "equal chosen and rejected"
        )
    return PairDataset(pairs, num_too_long, num_equal, sum(merged))


def _stored(source: str, data: Data, template: Template, limit: Limit) -> Iterator[Pair | None]:
    rows = load_rows(source, data, split=data.dataset_split)
    columns = [data.chosen_key, data.rejected_key]
    if data.prompt_key is not None:
        columns.append(data.prompt_key)
    for number, row in numbered_rows(rows, columns, source=source):
        chosen, rejected = row[data.chosen_key], row[data.rejected_key]
        if data.prompt_key is None and not isinstance(chosen, list):
            where = Where(source, number, data.chosen_key)
            yield _whole_texts(chosen, rejected, data, template, limit, where)
            continue
        asked = None if data.prompt_key is None else row[data.prompt_key]
        sides = [
            split_conversation(asked, value, Where(source, number, name))
            for name, value in ((data.chosen_key, chosen), (data.rejected_key, rejected))
        ]
        where = Where(source, number, data.prompt_key or data.chosen_key)
        if sides[0][0] != sides[1][0]:
            raise Where(source, number, data.chosen_key).error(
                f"and '{data.rejected_key}' answer different prompts: repair or drop the row"
            )
        yield _pair(sides[0][0], sides[0][1], sides[1][1], template, limit, where)


def _rated(
    source: str, data: Data, template: Template, limit: Limit, merged: array[int]
) -> Iterator[Pair | None]:
    """The best response against each one with a lower reward."""
    rows = load_feedback(source, split=data.dataset_split, data=data, keep_pairs=True)
    for row in tallied(rows, merged):
        best, highest = row.responses[0]
        for text, reward in row.responses[1:]:
            if reward < highest and text != best:
                yield _pair(row.prompt, best, text, template, limit, row.where)


def _pair(
    prompt: object, chosen: str, rejected: str, template: Template, limit: Limit, where: Where
) -> Pair | None:
    sides = read_responses(prompt, [chosen, rejected], template, limit, where)
    return Pair(*sides) if sides else None


def _distinct(pair: Pair | None) -> Sequence[Example] | None:
    """A pair of the same tokens as a group of one."""
    return pair[:1] if pair is not None and pair.chosen == pair.rejected else pair


def _whole_texts(
    chosen: object, rejected: object, data: Data, template: Template, limit: Limit, where: Where
) -> Pair | None:
    """Two conversations as text: their longest common token prefix is the prompt.

    Tokens that both share have the same log-probs, so where the prompt really ended makes no
    difference to a preference.
    """
    template.demand_prompt(where, "set data.prompt_key")
    names = (data.chosen_key, data.rejected_key)
    texts = [
        require_text(value, source=where.source, row=where.row, field=name)
        for value, name in zip((chosen, rejected), names, strict=True)
    ]
    ours, theirs = (template.demand_tokens(template.whole_ids(x), where) for x in texts)
    common = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    if common == 0:
        raise where.error(f"and '{data.rejected_key}' share no first token: set data.prompt_key")
    prompt_ids = limit.fit(ours[:common], template, where)
    if prompt_ids is None:
        return None
    sides = (
        limit.example(prompt_ids, ids[common:], eos=template.eos_token_id) for ids in (ours, theirs)
    )
    return Pair(*(replace(side, prompt_cut=len(prompt_ids) < common) for side in sides))
