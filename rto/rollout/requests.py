"""What goes to an engine and what comes back: plain values that cross process borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Prompts with a response each, as token ids."""


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of one call."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a sample beside the tokenizer's EoS."""


@dataclass(frozen=True)
class SampleRequest:
    prompt_token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Sample:
    """One sampled response; ``token_ids`` end in a stop token exactly when ``finished``.

    ``text`` goes on from the prompt's and is without special tokens."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finished: bool
