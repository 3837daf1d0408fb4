"""Pairs of responses for DPO and reward models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rto.data.examples import Limit, Pair
from rto.data.feedback import load_feedback
from rto.data.groups import Groups, read_groups, read_pair
from rto.data.sources import load_rows, numbered_rows, require_text
from rto.data.templates import Template, Where, check_messages
from rto.errors import UserError
from rto.sections import Data


@dataclass(frozen=True)
class PairDataset:
    """The pairs that fit, and how many rows were dropped because their prompt did not."""

    pairs: Groups[Pair]
    num_too_long: int


def load_pairs(data: Data, template: Template, *, seed: int) -> PairDataset:
    """Pairs of ``data.dataset``, or of ``data.feedback`` where that is not given."""
    limit = Limit.of(data, encoder_decoder=template.encoder_decoder)
    if data.dataset:
        parts = [_stored(name, data, template, limit) for name in data.dataset]
    elif data.feedback is not None:
        parts = [_rated(data.feedback, data, template, limit)]
    else:
        raise UserError("no pairs: set data.dataset (or data.feedback)")
    found = read_groups(parts, read_pair, data, seed=seed)
    pairs = found.select(np.flatnonzero(found.sizes))
    if not pairs:
        raise UserError(f"no pair is left of {len(found)} rows: raise data.max_len")
    return PairDataset(pairs=pairs, num_too_long=len(found) - len(pairs))


def _stored(source: str, data: Data, template: Template, limit: Limit) -> Iterator[Pair | None]:
    rows = load_rows(source, split=data.dataset_split)
    columns = [data.chosen_key, data.rejected_key]
    if data.prompt_key is not None:
        columns.append(data.prompt_key)
    for number, row in numbered_rows(rows, columns, source=source):
        where = Where(source, number, data.prompt_key or data.chosen_key)
        chosen, rejected = row[data.chosen_key], row[data.rejected_key]
        if data.prompt_key is not None:
            prompt = row[data.prompt_key]
            texts = (
                _answer(chosen, Where(source, number, data.chosen_key)),
                _answer(rejected, Where(source, number, data.rejected_key)),
            )
        elif isinstance(chosen, list):
            prompt, *texts = _conversations(chosen, rejected, where)
        else:
            yield _whole_texts(chosen, rejected, data, template, limit, where)
            continue
        yield _pair(prompt, texts[0], texts[1], template, limit, where)


def _rated(source: str, data: Data, template: Template, limit: Limit) -> Iterator[Pair | None]:
    """The best response against each one with a lower reward."""
    for row in load_feedback(source, split=data.dataset_split, layout=data.layout):
        best, highest = row.responses[0]
        for text, reward in row.responses[1:]:
            if reward < highest:
                yield _pair(row.prompt, best, text, template, limit, row.where)


def _pair(
    prompt: object, chosen: str, rejected: str, template: Template, limit: Limit, where: Where
) -> Pair | None:
    prompt_ids = template.prompt_ids(template.prompt(prompt, where))
    if not limit.admits(prompt_ids, where):
        return None
    eos = template.eos_token_id
    sides = [
        limit.example(
            prompt_ids, template.response_ids(template.response(prompt, text, where)), eos=eos
        )
        for text in (chosen, rejected)
    ]
    return Pair(*sides)


def _answer(value: object, where: Where) -> str:
    """A response as text; a list of messages must be the one assistant turn, or end in it."""
    if isinstance(value, list):
        value = check_messages(value, where)[-1]["content"]
    return require_text(value, source=where.source, row=where.row, field=where.field)


def _conversations(chosen: object, rejected: object, where: Where) -> tuple[object, str, str]:
    """Two message lists with the same prompt, each ending with the assistant's answer."""
    ours, theirs = check_messages(chosen, where), check_messages(rejected, where)
    if ours[:-1] != theirs[:-1]:
        raise where.error("and its rejected counterpart answer different prompts")
    if len(ours) < 2 or {ours[-1]["role"], theirs[-1]["role"]} != {"assistant"}:
        raise where.error("is not a prompt with an assistant turn at its end")
    return ours[:-1], ours[-1]["content"], theirs[-1]["content"]


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
    ours, theirs = (template.prompt_ids(text) for text in texts)
    if ours == theirs:
        raise where.error(f"equals '{data.rejected_key}'")
    common = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    if common == 0:
        raise where.error(f"and '{data.rejected_key}' share no first token: set data.prompt_key")
    if not limit.admits(ours[:common], where):
        return None
    eos = template.eos_token_id
    return Pair(
        limit.example(ours[:common], ours[common:], eos=eos),
        limit.example(ours[:common], theirs[common:], eos=eos),
    )
