"""One token by a given random number, from what the settings keep of a distribution."""

from __future__ import annotations

import torch

from rto.rollout.draw import draw, nucleus
from rto.rollout.requests import Sampling


def test_draw_is_the_inverse_of_the_cumulative_distribution() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(6, 3)
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.9999999])
    ids, logprobs = draw(logits, uniforms, Sampling(1))
    assert ids.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3, 0.3]))


def test_a_nucleus_is_the_fewest_tokens_that_reach_p() -> None:
    logprobs = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).log()
    got = nucleus(logprobs, 0.6).exp()
    torch.testing.assert_close(got, torch.tensor([[0, 0.625, 0.375], [0, 0, 1.0]]))
    ids, _ = draw(logprobs, torch.tensor([0.0, 0.0]), Sampling(1, top_p=0.6))
    assert ids.tolist() == [1, 2]


def test_min_p_and_top_k_keep_the_likely_tokens() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log().expand(2, 4)
    top = torch.tensor([0.0, 0.9999])
    # min_p 0.4 keeps what is at least 0.4 * 0.5 = 0.2 likely: 0.5 and 0.25, as two thirds and one.
    for sampling in (Sampling(1, min_p=0.4), Sampling(1, top_k=2)):
        ids, logprobs = draw(logits, top, sampling)
        assert ids.tolist() == [1, 3]
        torch.testing.assert_close(logprobs.exp(), torch.tensor([2 / 3, 1 / 3]))
    # Of those two the nucleus of 0.6 keeps the first, which is 2/3 of what top_k has left.
    ids, _ = draw(logits, top, Sampling(1, top_k=2, top_p=0.6))
    assert ids.tolist() == [1, 1]
    # min_p compares after the temperature: squared, 0.25 is a quarter as likely as 0.5.
    ids, _ = draw(logits, top, Sampling(1, temperature=0.5, min_p=0.3))
    assert ids.tolist() == [1, 1]
    ids, _ = draw(logits, top, Sampling(1, top_k=9))
    assert ids.tolist() == [0, 3]
