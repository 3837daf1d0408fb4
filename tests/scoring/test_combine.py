from __future__ import annotations

import pytest
import torch

from rto.errors import RewardProtocolError
from rto.scoring.combine import combine
from rto.types import Prompt, Rollout, logprob_array, token_array


def rollouts(count: int) -> list[Rollout]:
    """Two samples of each prompt; prompt ids 10, 11, ..."""
    return [
        Rollout(
            prompt=Prompt(id=10 + row // 2, token_ids=(1,), text="p"),
            sample_index=row % 2,
            token_ids=token_array((2,)),
            sampler_logprobs=logprob_array((0.0,)),
            text="r",
            finished=True,
            policy_version=0,
            seed=0,
        )
        for row in range(count)
    ]


def test_weighted_sum() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0], dtype=torch.bfloat16)
    total = combine([a, b], [2.0, -0.5], names=["a", "b"], rollouts=rollouts(3))
    assert total.dtype == torch.float32
    assert total.tolist() == [2 - 5, 4 - 10, 6 - 15]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_names_the_source_and_the_first_rollout(bad: float) -> None:
    good, broken = torch.ones(4), torch.tensor([0.0, 0.0, 0.0, bad])
    with pytest.raises(RewardProtocolError, match=r"^judge: .* prompt 11, sample 1 is .*1 of 4"):
        combine([good, broken], [1.0, 1.0], names=["model", "judge"], rollouts=rollouts(4))


def test_a_bad_source_with_weight_zero_is_still_an_error() -> None:
    broken = torch.tensor([float("nan")])
    with pytest.raises(RewardProtocolError, match="prompt 10, sample 0"):
        combine([broken], [0.0], names=["a"], rollouts=rollouts(1))


def test_overflow_of_the_sum_is_an_error() -> None:
    huge = torch.tensor([3e38])
    with pytest.raises(RewardProtocolError, match="weighted sum"):
        combine([huge, huge], [1.0, 1.0], names=["a", "b"], rollouts=rollouts(1))


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), ()])
def test_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(RewardProtocolError, match="for 3 responses"):
        combine([torch.ones(shape)], [1.0], names=["a"], rollouts=rollouts(3))


def test_weights_and_names_must_match_the_sources() -> None:
    with pytest.raises(ValueError, match="zip"):
        combine([torch.ones(1)], [1.0, 2.0], names=["a"], rollouts=rollouts(1))
    with pytest.raises(ValueError, match="no reward source"):
        combine([], [], names=[], rollouts=rollouts(1))
