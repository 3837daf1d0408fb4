"""What is told of any rollout, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rto.observe import observe, observe_stored
from rto.types import Role, ScoredBatch, TokenBatch

NAN = math.nan


def scored(group: torch.Tensor) -> ScoredBatch:
    mask = torch.tensor([[True, True], [True, False]])
    tokens = TokenBatch(
        prompt_ids=torch.ones(2, 1, dtype=torch.long),
        prompt_mask=torch.ones(2, 1, dtype=torch.bool),
        response_ids=torch.ones(2, 2, dtype=torch.long),
        response_mask=mask,
        sampler_logprobs=torch.tensor([[-1.0, -2.5], [-1.0, 0.0]]),
        finished=torch.tensor([True, False]),
        group=group,
    )
    scores = {
        Role.POLICY: torch.tensor([[-1.0, -2.0], [-1.0, NAN]]),
        Role.REFERENCE: torch.tensor([[-1.5, -3.0], [-1.0, NAN]]),
        Role.REWARD: torch.tensor([1.0, 4.0]),
    }
    return ScoredBatch(tokens, scores)


def test_figures_by_hand() -> None:
    expected = {
        "reward/mean": 2.5,
        "reward/std": 1.5,
        "kl/mean": (0.5 + 1.0 + 0.0) / 3,
        "kl/sequence": (1.5 + 0.0) / 2,
        "response/num": 2,
        "response/length": 1.5,
        "response/surprisal": (1.0 + 2.0 + 1.0) / 3,
        "response/truncated_share": 0.5,
        "sampler/abs_diff_mean": 0.5 / 3,
        "sampler/abs_diff_max": 0.5,
        "sampler/ratio": (1 + math.exp(0.5) + 1) / 3,
    }
    got = observe(scored(group=torch.tensor([0, 1])))
    assert {name: got[name] for name in expected} == pytest.approx(expected)


def test_stored_responses_by_hand() -> None:
    """Log-ratios 1.5 and 0 of one prompt, whose first response has the lower reward."""
    batch = scored(group=torch.tensor([0, 0]))
    got = observe_stored(batch)
    assert got == {"policy/log_ratio": 0.75, "reward/correlation": pytest.approx(-1)}


def test_without_a_reference_stored_responses_tell_nothing() -> None:
    batch = scored(group=torch.tensor([0, 0]))
    del batch.scores[Role.REFERENCE]  # pyright: ignore[reportIndexIssue]
    assert observe_stored(batch) == {}
