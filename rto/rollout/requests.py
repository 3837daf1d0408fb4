"""The requests and answers of an engine: plain values that are sent between processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Self

from rto.errors import UserError
from rto.sections.runtime import Decoding
from rto.types import LogProbs, TokenIds

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Prompts with a response each, as token ids."""


@dataclass(frozen=True)
class Sampling:
    """How the responses of one call are drawn; ``Decoding`` explains each setting."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a sample beside the tokenizer's EoS."""

    @classmethod
    def of(cls, decoding: Decoding, *, stop_token_ids: tuple[int, ...] = ()) -> Self:
        """The same settings, without those of a command, for a model with these stop tokens."""
        given = {f.name: vars(decoding)[f.name] for f in fields(cls) if f.name != "stop_token_ids"}
        return cls(**{**given, "stop": tuple(decoding.stop)}, stop_token_ids=stop_token_ids)

    def check_vllm(self) -> None:
        """
        Raises:
            UserError: a setting that vLLM does not have.
        """
        if self.no_repeat_ngram_size:
            raise UserError(
                f"no_repeat_ngram_size is {self.no_repeat_ngram_size}: vLLM has no "
                "such setting: leave it out, take repetition_penalty, or vllm.engine transformers"
            )

    def until_stop(self, text: str) -> str:
        """The text up to the first place where one of the stop texts begins."""
        found = [text.find(stop) for stop in self.stop if stop in text]
        return text[: min(found)] if found else text


@dataclass(frozen=True)
class SampleRequest:
    prompt_token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Sample:
    """One sampled response: read-only arrays of its tokens.

    ``finished``: ``token_ids`` end in a stop token, or spell a stop text, which ``text`` leaves
    out. ``text`` goes on from the prompt's and is without special tokens.
    """

    token_ids: TokenIds
    logprobs: LogProbs
    text: str
    finished: bool


def in_parts(
    finished: Iterator[tuple[int, Sample]], sizes: Sequence[int]
) -> Iterator[list[Sample]]:
    """Samples by the number of their request, in any order -> the samples of each part of so many
    requests, in order, as soon as all of it are there."""
    samples: dict[int, Sample] = {}
    for size, end in zip(sizes, accumulate(sizes), strict=True):
        rows = range(end - size, end)
        missing = set(rows) - samples.keys()
        while missing:
            row, sample = next(finished)
            samples[row] = sample
            missing.discard(row)
        yield [samples.pop(row) for row in rows]
