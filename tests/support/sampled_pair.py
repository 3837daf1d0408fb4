"""Two responses with scores, as a tracker is given them."""

from __future__ import annotations

import math

import torch

from rto.types import Prompt, Role, Rollout, ScoredBatch, collate, logprob_array, token_array


def two_rollouts() -> tuple[list[Rollout], ScoredBatch]:
    """Responses of 2 tokens and 1 token; every padded entry holds NaN."""
    prompt = Prompt(id=7, token_ids=(1, 2), text="Häuser?")
    rollouts = [
        Rollout(
            prompt, 0, token_array((5, 6)), logprob_array((-1.0, -2.0)), "a\x1b[31m", True, 3, 11
        ),
        Rollout(prompt, 1, token_array((8,)), logprob_array((-0.5,)), "b\ud800", False, 3, 12),
    ]
    pad = math.nan
    scores = {
        Role.REWARD: torch.tensor([0.25, -1.5]),
        Role.DPO: torch.tensor([[-0.12344, -0.20004], [-3.0, pad]]),
        Role.CRITIC: torch.tensor([[0.5, 0.75], [1.0, pad]]),
    }
    return rollouts, ScoredBatch(collate(rollouts, pad_token_id=0), scores)
