"""Token ids as the batch that a model reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rto.types import TokenBatch, pad


def token_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    groups: Sequence[int] | None = None,
    eos: int = 2,
) -> TokenBatch:
    """Padded with 0; every row its own group if none are given."""
    prompt_ids, prompt_mask = pad(prompts, 0, left=True)
    response_ids, response_mask = pad(responses, 0, left=False)
    return TokenBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
        sampler_logprobs=torch.zeros(response_ids.shape),
        finished=torch.tensor([row[-1] == eos for row in responses]),
        group=torch.tensor(range(len(prompts)) if groups is None else groups),
    )
