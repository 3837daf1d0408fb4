from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rto.types import Role, ScoredBatch, TokenBatch

B, P, T = 6, 3, 7
LENGTHS = torch.tensor([[7], [1], [4], [6], [2], [5]])


@pytest.fixture
def scored() -> Callable[..., ScoredBatch]:
    """Random scores for six responses of 1 to 7 tokens, two per group; padding holds ``fill``."""

    def make(*, fill: float = 0.0, **replaced: torch.Tensor) -> ScoredBatch:
        rng = torch.Generator().manual_seed(5)
        mask = torch.arange(T) < LENGTHS

        def logprobs() -> torch.Tensor:
            return (-torch.rand(B, T, generator=rng) * 3).masked_fill(~mask, fill)

        scores = {
            Role.POLICY: logprobs(),
            Role.REFERENCE: logprobs(),
            Role.DPO: logprobs(),
            Role.DPO_REFERENCE: logprobs(),
            Role.CRITIC: logprobs(),
            Role.REWARD: torch.tensor([12.0, -0.5, 0.25, 1.5, -20.0, 3.0]),
        }
        scores |= {Role(name): tensor for name, tensor in replaced.items()}
        tokens = TokenBatch(
            prompt_ids=torch.ones(B, P, dtype=torch.long),
            prompt_mask=torch.ones(B, P, dtype=torch.bool),
            response_ids=torch.randint(0, 5, (B, T), generator=rng),
            response_mask=mask,
            sampler_logprobs=scores[Role.POLICY] + 0.125,
            finished=torch.tensor([False, True, True, False, True, True]),
            group=torch.arange(B) // 2,
        )
        return ScoredBatch(tokens, scores)

    return make
