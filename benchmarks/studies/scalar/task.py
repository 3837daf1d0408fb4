"""Prompts of four tokens, answers of at most twelve, and a reward that is computed.

A prompt names a class of words, a length and two topics. An answer should hold words of the class,
be of the length and avoid the first word of every class. The pair of topics adds an offset of its
own, so the value of a prompt varies as much as the answers to it do.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from rto.types import TokenBatch

PAD, EOS = 0, 1
CLASSES, LENGTHS, TOPICS, WORDS = 8, 6, 8, 5
"""Of which there are: classes of words, lengths, topics, words in a class."""
SHORTEST = 3
CLASS, LENGTH, TOPIC, WORD = 2, 10, 16, 24
"""The first id of each kind of token."""
VOCABULARY = WORD + CLASSES * WORDS
MAX_RESPONSE = 12


@dataclass(frozen=True)
class Task:
    """``offset`` [topics, topics] is what the prompt alone adds to the reward."""

    offset: Tensor

    @classmethod
    def make(cls, seed: int) -> Task:
        rng = torch.Generator().manual_seed(seed)
        return cls(0.65 * torch.randn(TOPICS, TOPICS, generator=rng))

    def rewards(self, tokens: TokenBatch) -> Tensor:
        """[B]: 2 share of the class - 1/4 words too many or too few - 1/2 unwanted words + offset.

        Tokens that are no words count for nothing.
        """
        prompts = tokens.prompt_ids
        word = tokens.response_ids - WORD
        is_word = tokens.response_mask & (word >= 0)
        count = is_word.sum(-1)
        right = is_word & (word // WORDS == prompts[:, :1] - CLASS)
        unwanted = is_word & (word % WORDS == 0)
        off_length = (count - (prompts[:, 1] - LENGTH + SHORTEST)).abs()
        offset = self.offset[prompts[:, 2] - TOPIC, prompts[:, 3] - TOPIC]
        share = right.sum(-1) / count.clamp(min=1)
        return 2 * share - 0.25 * off_length - 0.5 * unwanted.sum(-1) + offset


def all_prompts(seed: int) -> Tensor:
    """Every prompt once, in a random order [prompts, 4]."""
    kinds = ((CLASS, CLASSES), (LENGTH, LENGTHS), (TOPIC, TOPICS), (TOPIC, TOPICS))
    ids = torch.tensor(list(itertools.product(*(range(at, at + n) for at, n in kinds))))
    return ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))]


@dataclass(frozen=True)
class Writer:
    """Who writes answers without a model: each word is of the class with a probability, else any
    word; the length is off by at most ``spread``."""

    on_class: float
    spread: int

    def write(self, prompts: Tensor, rng: torch.Generator) -> TokenBatch:
        rows = len(prompts)
        own = torch.rand(rows, MAX_RESPONSE, generator=rng) < self.on_class
        in_class = torch.randint(WORDS, own.shape, generator=rng)
        right = (prompts[:, :1] - CLASS) * WORDS + in_class
        other = torch.randint(CLASSES * WORDS, own.shape, generator=rng)
        ids = WORD + torch.where(own, right, other)
        off = torch.randint(-self.spread, self.spread + 1, (rows,), generator=rng)
        length = (prompts[:, 1] - LENGTH + SHORTEST + off).clamp(1, MAX_RESPONSE - 1)
        ids[torch.arange(MAX_RESPONSE) >= length[:, None]] = EOS
        return token_batch(prompts, ids)


TEACHER = Writer(on_class=0.5, spread=2)
"""Whom the reference imitates."""
MISMATCHED = Writer(on_class=0.2, spread=4)
"""Whose answers the off-policy arm has."""


def token_batch(prompts: Tensor, ids: Tensor) -> TokenBatch:
    """Prompts [B, 4] and responses [B, T], which end at their first EoS; equal neighbours form a
    group."""
    ended = ids == EOS
    mask = ended.cumsum(-1) - ended.long() == 0
    changed = (prompts[1:] != prompts[:-1]).any(-1).long()
    return TokenBatch(
        prompt_ids=prompts,
        prompt_mask=torch.ones_like(prompts, dtype=torch.bool),
        response_ids=ids.masked_fill(~mask, PAD),
        response_mask=mask,
        sampler_logprobs=torch.zeros(ids.shape),
        finished=ended.any(-1),
        group=torch.cat([torch.zeros(1, dtype=torch.long), changed.cumsum(0)]),
    )
