"""Prompts for online training."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from rto.data.feedback.read import load_feedback, tallied
from rto.data.sources import label_text, load_rows, mix, numbered_rows
from rto.data.storage.arrow import Lazy, cache_home, lengths, write_table
from rto.data.templates import Template, Where
from rto.errors import UserError
from rto.sections.data import Data
from rto.types import Prompt

SCHEMA = pa.schema(
    [
        ("token_ids", pa.list_(pa.int32())),
        ("text", pa.large_string()),
        ("label", pa.large_string()),
        ("source", pa.string()),
        ("cut", pa.bool_()),
    ]
)
COLUMNS = ("token_ids", "text", "label", "source")
"""Of a prompt; ``cut`` says whether it was longer."""


@dataclass(frozen=True, eq=False)
class PromptDataset(Lazy[Prompt]):
    """The prompts that fit, on disk, and how many did not.

    ``rows`` [N] are their rows in ``table``, ``ids`` [N] their places in the mixture.
    ``num_merged`` responses to them, where they had any, repeated another one; ``num_cut`` of them
    were cut to fit.
    """

    table: pa.Table
    rows: np.ndarray
    ids: np.ndarray
    num_too_long: int
    num_merged: int = 0
    num_cut: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def item(self, index: int) -> Prompt:
        (row,) = self.table.slice(self.rows[index], 1).to_pylist()
        row["token_ids"] = tuple(row["token_ids"])
        return Prompt(int(self.ids[index]), **{name: row[name] for name in COLUMNS})


def load_prompts(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_len: int,
    seed: int,
    encoder_decoder: bool = False,
) -> PromptDataset:
    """Prompts of ``data.prompt_dataset``, or of ``data.feedback`` where that is not given.

    A prompt's id is its place in the mixture before any is dropped, so it does not depend on the
    length limit.
    """
    template = Template(
        tokenizer, data.input_template, data.apply_chat_template, encoder_decoder=encoder_decoder
    )
    limit = max_prompt_len if data.on_long_prompt == "truncate" else None
    merged = array("q")
    if data.prompt_dataset:
        parts = [_read(name, data, template, limit) for name in data.prompt_dataset]
    elif data.feedback is not None:
        parts = [_rated(data.feedback, data, template, limit, merged)]
    else:
        raise UserError("no prompts: set data.prompt_dataset (or data.feedback)")
    tables = [write_table(part, SCHEMA, cache_home(data.cache_dir)) for part in parts]
    order = mix([len(table) for table in tables], probs=data.prompt_probs, seed=seed)
    prompts = _fitting(pa.concat_tables(tables), order[: data.max_samples], max_prompt_len, data)
    num_merged = int(np.asarray(merged)[prompts.rows].sum()) if merged else 0
    return replace(prompts, num_merged=num_merged)


def _fitting(table: pa.Table, order: np.ndarray, max_prompt_len: int, data: Data) -> PromptDataset:
    sizes = lengths(table["token_ids"])[order]
    long = sizes > max_prompt_len
    if long.any() and data.on_long_prompt == "error":
        worst = int(sizes.argmax())
        source = table["source"][order[worst]].as_py()
        raise UserError(
            f"{long.sum()} prompts are longer than {max_prompt_len} tokens (prompt {worst} of "
            f"{source} has {sizes[worst]}): raise data.max_len, lower "
            "rollout.max_new_tokens or set data.on_long_prompt to filter or truncate"
        )
    kept = np.flatnonzero(~long)
    if not len(kept):
        raise UserError(
            f"all {len(order)} prompts are longer than {max_prompt_len} tokens: raise "
            "data.max_len or lower rollout.max_new_tokens"
        )
    rows = order[kept]
    num_cut = int(table["cut"].to_numpy()[rows].sum())
    return PromptDataset(table, rows, kept, int(long.sum()), num_cut=num_cut)


def _read(
    source: str, data: Data, template: Template, limit: int | None
) -> Iterator[dict[str, object]]:
    rows = load_rows(source, data, split=data.prompt_split)
    columns = [data.input_key] if data.label_key is None else [data.input_key, data.label_key]
    for number, row in numbered_rows(rows, columns, source=source):
        where = Where(source, number, data.input_key)
        key = data.label_key
        at = "" if key is None else str(Where(source, number, key))
        label = None if key is None else label_text(row[key], where=at)
        yield _row(row[data.input_key], where, template, limit, label=label)


def _rated(
    source: str, data: Data, template: Template, limit: int | None, merged: array[int]
) -> Iterator[dict[str, object]]:
    for row in tallied(load_feedback(source, split=data.prompt_split, data=data), merged):
        yield _row(row.prompt, row.where, template, limit, label=None)


def _row(
    value: object, where: Where, template: Template, limit: int | None, *, label: str | None
) -> dict[str, object]:
    """A prompt, cut to ``limit`` tokens where one is given; its text is what is left of it."""
    text = template.prompt(value, where)
    token_ids = template.demand_tokens(template.prompt_ids(text), where)
    cut = limit is not None and len(token_ids) > limit
    if limit is not None and cut:
        token_ids = template.demand_tokens(template.cut_prompt(token_ids, limit), where)
        text = template.cut_text(text, token_ids)
    return {
        "token_ids": token_ids,
        "text": text,
        "label": label,
        "source": where.source,
        "cut": cut,
    }
