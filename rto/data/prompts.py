"""Prompts for online training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from transformers import PreTrainedTokenizerBase

from rto.data.feedback import load_feedback
from rto.data.sources import load_rows, mix, numbered_rows
from rto.data.templates import Template, Where
from rto.errors import UserError
from rto.sections import Data
from rto.types import Prompt


@dataclass(frozen=True)
class PromptDataset(Sequence[Prompt]):
    """The prompts that fit, and how many did not."""

    prompts: tuple[Prompt, ...]
    num_too_long: int

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...

    def __getitem__(self, index: int | slice) -> Prompt | tuple[Prompt, ...]:
        return self.prompts[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)


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
    if data.prompt_dataset:
        parts = [_read(name, data, template) for name in data.prompt_dataset]
        mixed = mix(parts, probs=data.prompt_probs, seed=seed)
    elif data.feedback is not None:
        mixed = _rated(data.feedback, data, template)
    else:
        raise UserError("no prompts: set data.prompt_dataset (or data.feedback)")
    mixed = mixed[: data.max_samples]
    prompts = [dataclasses.replace(prompt, id=i) for i, prompt in enumerate(mixed)]
    return _fitting(prompts, max_prompt_len, data)


def _fitting(prompts: Sequence[Prompt], max_prompt_len: int, data: Data) -> PromptDataset:
    long = [prompt for prompt in prompts if len(prompt.token_ids) > max_prompt_len]
    if long and data.on_long_prompt == "error":
        worst = max(long, key=lambda prompt: len(prompt.token_ids))
        raise UserError(
            f"{len(long)} prompts are longer than {max_prompt_len} tokens (prompt {worst.id} of "
            f"{worst.source} has {len(worst.token_ids)}): raise data.max_len, lower "
            "rollout.max_new_tokens or set data.on_long_prompt to filter"
        )
    kept = tuple(prompt for prompt in prompts if len(prompt.token_ids) <= max_prompt_len)
    if not kept:
        raise UserError(
            f"all {len(prompts)} prompts are longer than {max_prompt_len} tokens: raise "
            "data.max_len or lower rollout.max_new_tokens"
        )
    return PromptDataset(prompts=kept, num_too_long=len(long))


def _read(source: str, data: Data, template: Template) -> list[Prompt]:
    rows = load_rows(source, split=data.prompt_split)
    columns = [data.input_key] if data.label_key is None else [data.input_key, data.label_key]
    return [
        _prompt(
            row[data.input_key],
            Where(source, number, data.input_key),
            template,
            label=None if data.label_key is None else row[data.label_key],
        )
        for number, row in numbered_rows(rows, columns, source=source)
    ]


def _rated(source: str, data: Data, template: Template) -> list[Prompt]:
    rows = load_feedback(source, split=data.prompt_split, layout=data.layout)
    return [_prompt(row.prompt, row.where, template, label=None) for row in rows]


def _prompt(value: object, where: Where, template: Template, *, label: object) -> Prompt:
    text = template.prompt(value, where)
    return Prompt(
        id=where.row,
        token_ids=template.prompt_ids(text),
        text=text,
        label=None if label is None else str(label),
        source=where.source,
    )
