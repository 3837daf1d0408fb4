"""Token ids as the batch that a model reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from rto.data.examples import Example, collate_groups
from rto.types import TokenBatch


def token_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    groups: Sequence[int] | None = None,
    eos: int = 2,
) -> TokenBatch:
    """Padded with 0; every row its own group if none are given."""
    rows = [
        Example(tuple(prompt), tuple(response), finished=response[-1] == eos)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    tokens = collate_groups([[row] for row in rows], pad_token_id=0)
    return tokens if groups is None else dataclasses.replace(tokens, group=torch.tensor(groups))
