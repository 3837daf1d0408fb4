"""The section ``data``: what is read, and how it becomes text and tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from rto.sections.ranges import (
    Count,
    NotNegative,
    Range,
    Section,
    require,
)


class InputTemplate(NamedTuple):
    """A prompt and its response as text; ``{}`` is replaced. An encoder-decoder model's response
    is a text of its own and stays as it is."""

    prompt: str
    response: str


INPUT_TEMPLATES = {"rpo_authors": InputTemplate("prompt : {} [SEP] response :", " {}")}
"""By the names that data.input_template knows. The authors of RPO and reward_aware write a row as
``prompt : q [SEP] response : r``; [SEP] is ordinary text to most tokenizers."""


@dataclass(frozen=True)
class Data(Section):
    """What is read, and how a row becomes text and tokens."""

    prompt_dataset: list[str] = field(default_factory=list)
    """Prompts for online training: hub ids, files (jsonl, json, csv, parquet), saved datasets."""
    prompt_probs: list[NotNegative] | None = None
    """Mixing weights of several datasets; concatenation when unset."""
    prompt_split: str = "train"
    """Split of the prompts' hub or saved data sets."""
    dataset: list[str] = field(default_factory=list)
    """Rows for the offline stages, in the same forms."""
    dataset_probs: list[NotNegative] | None = None
    """Mixing weights of data.dataset; concatenation when unset."""
    dataset_split: str = "train"
    """Split of the rows' hub or saved data sets."""
    eval_dataset: str | None = None
    """Held-out rows; a share of the training rows is split off when unset."""
    eval_ratio: Annotated[float, Range(least=0, below=1)] = 0.05
    """Share of the prompts that is held out and scored at the end; 0 for none."""
    feedback: str | None = None
    """Rows of {prompt, responses: [{text, reward}]}, or of {prompt, response, reward}: read as
    rated responses, prompts, SFT rows or pairs."""
    layout: str | None = None
    """Layout of the rated responses, one of docs/data.md; their columns tell it when unset."""
    columns: list[str] = field(default_factory=list)
    """Columns by other names, as prompt=question,response=answer: on the left what rto reads."""
    config_name: str | None = None
    """Configuration (subset) of data sets of the hub that have several."""
    on_few_responses: Literal["filter", "error"] = "filter"
    """A prompt with fewer rated responses than the method needs."""
    reward_scaling: Literal["auto", "none", "zscore", "within_prompt"] = "auto"
    """Of stored rewards: as the method has it, unchanged, (r - mean) / std over all training rows,
    or r / (std of the rewards less their prompt's mean)."""
    cache_dir: str | None = None
    """Where reference log-probs of stored rows are kept, and token ids while a run lasts;
    ~/.cache/rto when unset."""
    pretrain_dataset: str | None = None
    """Text for the ptx loss."""
    input_key: str = "input"
    """Column of the prompts, or of SFT's prompts or conversations."""
    output_key: str | None = None
    """Response column for SFT; unset means input_key holds the whole conversation."""
    prompt_key: str | None = None
    """Prompt column of pairs; unset means chosen and rejected are whole conversations."""
    chosen_key: str = "chosen"
    """Column of the preferred response of a pair."""
    rejected_key: str = "rejected"
    """Column of the other response of a pair."""
    label_key: str | None = None
    """Column that is handed to reward functions and servers as it stands."""
    input_template: str | None = None
    """A text with one {} for the prompt, or the name of a published format: rpo_authors."""
    apply_chat_template: bool = False
    """Render prompts and responses with the tokenizer's chat template."""
    chat_template: str | None = None
    """Which chat template: the name of one that the tokenizer has, or a file with a jinja
    template."""
    max_len: Annotated[int, Range(least=2)] = 2048
    """Longest prompt plus response, in tokens."""
    max_prompt_len: Count | None = None
    """Longest prompt, in tokens; what data.max_len leaves when unset. A response of an
    encoder-decoder model then has data.max_len less this many, however short its prompt is."""
    max_samples: Count = 100_000_000
    """Read no more rows than this."""
    on_long_prompt: Literal["filter", "error", "truncate"] = "filter"
    """A prompt that leaves no room for a response: drop it, end the run, or keep as many tokens as
    may be (of stored rows data.max_prompt_len), from the side that the tokenizer's truncation_side
    leaves."""

    def check(self, prefix: str) -> None:
        for field_name, probs, sets in (
            ("prompt_probs", self.prompt_probs, self.prompt_dataset),
            ("dataset_probs", self.dataset_probs, self.dataset),
        ):
            shown, got = f"{prefix}{field_name}", len(probs or [])
            message = f"{shown} has {got} entries for {len(sets)} datasets: one each"
            require(probs is None or got == len(sets), message)
            require(probs is None or sum(probs) > 0, f"{shown} are all 0: one must be above")
        _check_columns(f"{prefix}columns", self.columns)
        prompt = self.max_prompt_len
        require(
            prompt is None or prompt < self.max_len,
            f"{prefix}max_prompt_len is {prompt}: must be less than {prefix}max_len "
            f"{self.max_len}, which counts prompt and response",
        )
        template = self.input_template
        require(
            template is None or template in INPUT_TEMPLATES or "{}" in template,
            f"{prefix}input_template is {template!r}: needs one {{}} for the prompt, or is one of "
            f"{', '.join(INPUT_TEMPLATES)}",
        )


def _check_columns(name: str, columns: list[str]) -> None:
    """New names and old names of columns: each is given, and none stands twice."""
    pairs = [column.partition("=") for column in columns]
    for (new, _, old), column in zip(pairs, columns, strict=True):
        require(bool(new and old), f"{name} has {column!r}: write NEW=OLD, as prompt=question")
    for side in (0, 2):
        names = [pair[side] for pair in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f"{name} names {twice!r} twice: give each column one name")
