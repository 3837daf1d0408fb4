from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rto.training.learner import trim_batch
from rto.types import TokenBatch, TrainBatch, pad


@dataclass(frozen=True)
class Weighted(TrainBatch):
    advantages: Tensor  # [B, T]
    reward: Tensor  # [B]


def batch(*, extra_prompt: int, extra_response: int) -> Weighted:
    """Prompts of 1 and 2 tokens, responses of 3 and 1, plus columns that are all padding."""
    prompt_ids, prompt_mask = pad([[0] * extra_prompt + [5, 6], [7]], 0, left=True)
    prompt_mask[0, :extra_prompt] = False
    response_ids, response_mask = pad([[1, 2, 3] + [0] * extra_response, [4]], 0, left=False)
    response_mask[0, 3:] = False
    tokens = TokenBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
        sampler_logprobs=-response_ids.float(),
        finished=torch.tensor([True, False]),
        group=torch.tensor([0, 1]),
    )
    return Weighted(tokens, advantages=10.0 * response_ids, reward=torch.tensor([0.5, 0.25]))


def test_every_response_tensor_is_cut_to_one_width() -> None:
    got = trim_batch(batch(extra_prompt=4, extra_response=2))
    assert got.tokens.prompt_ids.tolist() == [[5, 6], [0, 7]]
    assert got.tokens.response_ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert got.advantages.tolist() == [[10, 20, 30], [40, 0, 0]]
    assert got.reward.tolist() == [0.5, 0.25]


def test_prompts_of_the_response_width_are_cut_on_their_own_side() -> None:
    padded = batch(extra_prompt=3, extra_response=2)
    assert padded.tokens.prompt_ids.shape == padded.tokens.response_ids.shape
    assert trim_batch(padded).tokens.prompt_ids.tolist() == [[5, 6], [0, 7]]


def test_nothing_to_trim() -> None:
    whole = batch(extra_prompt=0, extra_response=0)
    assert trim_batch(whole).advantages.equal(whole.advantages)
