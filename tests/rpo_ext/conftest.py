from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rto.protocols import PolicyMethod
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch, TokenBatch

LENGTHS = torch.tensor([[5], [1], [3], [4], [2], [5], [3]])
GROUP = torch.tensor([4, 4, 4, 0, 0, 7, 7])
B, P, T = 7, 2, 5


def tokens_of(mask: Tensor, group: Tensor, sampler_logprobs: Tensor) -> TokenBatch:
    batch = len(mask)
    return TokenBatch(
        prompt_ids=torch.ones(batch, P, dtype=torch.long),
        prompt_mask=torch.ones(batch, P, dtype=torch.bool),
        response_ids=torch.zeros(mask.shape, dtype=torch.long),
        response_mask=mask,
        sampler_logprobs=sampler_logprobs,
        finished=torch.ones(batch, dtype=torch.bool),
        group=group,
    )


@pytest.fixture
def rated() -> Callable[..., ScoredBatch]:
    """Seven responses of 1 to 5 tokens to three prompts (3, 2, 2); padding holds ``fill``."""

    def make(*, fill: float = 0.0, **replaced: Tensor) -> ScoredBatch:
        rng = torch.Generator().manual_seed(2)
        mask = torch.arange(T) < LENGTHS

        def logprobs() -> Tensor:
            return (-torch.rand(B, T, generator=rng) * 3).masked_fill(~mask, fill)

        scores = {
            Role.POLICY: logprobs(),
            Role.REFERENCE: logprobs(),
            Role.CRITIC: logprobs(),
            Role.UNRELATED: torch.tensor([1.0, -0.5, 0.25, 2.0, 0.0, -1.0, 0.5]),
            Role.REWARD: torch.tensor([1.0, -1.0, 0.5, 2.0, -0.25, 0.75, -1.5]),
        }
        tokens = tokens_of(mask, GROUP, logprobs())
        scores[Role.SAMPLER] = tokens.sampler_logprobs
        scores |= {Role(name): tensor for name, tensor in replaced.items()}
        return ScoredBatch(tokens, scores)

    return make


@pytest.fixture
def tabular() -> Callable[..., ScoredBatch]:
    """Every one-token response of a table, once: rewards, ref_logprobs, sampler_logprobs [X, Y]."""

    def make(*, rewards: Tensor, ref_logprobs: Tensor, sampler_logprobs: Tensor) -> ScoredBatch:
        prompts, responses = rewards.shape
        rows = prompts * responses
        tokens = tokens_of(
            torch.ones(rows, 1, dtype=torch.bool),
            torch.arange(prompts).repeat_interleave(responses),
            sampler_logprobs.reshape(rows, 1),
        )
        scores = {
            Role.REWARD: rewards.flatten(),
            Role.REFERENCE: ref_logprobs.reshape(rows, 1),
            Role.SAMPLER: tokens.sampler_logprobs,
        }
        return ScoredBatch(tokens, scores)

    return make


@pytest.fixture
def fit() -> Callable[..., Tensor]:
    """Adam on the logits [X, Y] of a tabular policy that starts at the reference.

    The policy's own log-probs are scored again before each step, as for a fresh batch.
    """

    def run(
        method: PolicyMethod, batch: ScoredBatch, shape: tuple[int, int], steps: int = 300
    ) -> Tensor:
        logits = batch[Role.REFERENCE].reshape(shape).clone().requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.05)
        norm = LossNorm(tokens=len(batch), sequences=len(batch), groups=shape[0])
        for _ in range(steps):
            logprobs = logits.log_softmax(-1).reshape(-1, 1)
            scores = {**batch.scores, Role.POLICY: logprobs.detach()}
            targets, _ = method.targets(ScoredBatch(batch.tokens, scores))
            optimizer.zero_grad()
            method.loss(PolicyOutput(logprobs), targets, norm).loss.backward()
            optimizer.step()
        return logits.detach().log_softmax(-1)

    return run
