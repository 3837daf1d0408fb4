"""Reductions per prompt, the correlation within prompts, and the reduction over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from rpo_ext.functional.responses import reduce_logprobs
from rto.functional.segments import (
    segment_first,
    segment_log_softmax,
    segment_logsumexp,
    segment_logsumexp_others,
    segment_max,
    segment_mean,
    segment_size,
    segment_sum,
    sum_over_groups,
    within_group_correlation,
)

VALUES = torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
GROUP = torch.tensor([3, 1, 3, 1, 1])


def members(row: int) -> list[float]:
    return VALUES[GROUP[row] == GROUP].tolist()


def test_each_reduction_against_a_loop() -> None:
    rows = [members(row) for row in range(5)]
    expected = {
        segment_sum: [sum(own) for own in rows],
        segment_size: [len(own) for own in rows],
        segment_mean: [sum(own) / len(own) for own in rows],
        segment_max: [max(own) for own in rows],
        segment_logsumexp: [math.log(sum(map(math.exp, own))) for own in rows],
    }
    for function, numbers in expected.items():
        assert function(VALUES, GROUP).tolist() == pytest.approx(numbers, abs=1e-12), function


def test_softmax_sums_to_one_per_prompt_and_has_the_right_gradient() -> None:
    log_q = segment_log_softmax(VALUES, GROUP)
    assert segment_sum(log_q.exp(), GROUP).tolist() == pytest.approx([1.0] * 5)
    inputs = VALUES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: segment_log_softmax(v, GROUP), (inputs,))


def test_others_against_a_loop() -> None:
    expected = []
    for row, own in enumerate(members(row) for row in range(5)):
        others = list(own)
        others.remove(float(VALUES[row]))
        expected.append(math.log(sum(map(math.exp, others))))
    assert segment_logsumexp_others(VALUES, GROUP).tolist() == pytest.approx(expected, abs=1e-12)


def test_others_of_a_row_that_holds_nearly_everything() -> None:
    """log(e^800 + e^0 - e^800) has lost everything; the answer is 0."""
    group = torch.zeros(2, dtype=torch.long)
    values = torch.tensor([800.0, 0.0])
    assert segment_logsumexp_others(values, group).tolist() == [0.0, 800.0]
    tied = segment_logsumexp_others(torch.tensor([5.0, 5.0]), group)
    assert tied.tolist() == pytest.approx([5.0, 5.0], abs=1e-5)


def test_first_row_per_prompt() -> None:
    chosen = torch.tensor([False, True, True, True, False])
    assert segment_first(chosen, GROUP).tolist() == [False, True, True, False, False]


def test_a_prompt_counts_once_in_a_sum_over_groups() -> None:
    # prompt 3: (1 + 0.5) / 2; prompt 1: (-1 + 2 + 0) / 3
    assert float(sum_over_groups(VALUES, GROUP)) == pytest.approx(0.75 + 1 / 3)


def test_a_column_is_an_error_not_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"values \(2, 1\), group \(2,\): need \[B\]"):
        segment_logsumexp(torch.zeros(2, 1), torch.zeros(2))


def test_log_probs_of_a_response() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    logprobs = torch.tensor([[-1.0, -3.0, math.nan], [-2.0, math.nan, math.nan]])
    assert reduce_logprobs(logprobs, mask, reduction="sum").tolist() == [-4.0, -2.0]
    assert reduce_logprobs(logprobs, mask, reduction="mean").tolist() == [-2.0, -2.0]
    with pytest.raises(ValueError, match="expected sum or mean"):
        reduce_logprobs(logprobs, mask, reduction="max")  # pyright: ignore[reportArgumentType]


def test_a_long_bf16_response_is_summed_in_fp32() -> None:
    """2,000 tokens of -1.9921875 (exact in bf16) are -3984.375; bf16 itself can hold -3984."""
    logprobs = torch.full((1, 2000), -1.9921875, dtype=torch.bfloat16)
    total = reduce_logprobs(logprobs, torch.ones(1, 2000, dtype=torch.bool), reduction="sum")
    assert total.dtype == torch.float32
    assert float(total) == -3984.375


def test_correlation_within_prompts_does_not_see_their_means() -> None:
    torch.manual_seed(0)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    x, y = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    centred = [v - v.view(2, 3).mean(1).repeat_interleave(3) for v in (x, y)]
    expected = float(torch.corrcoef(torch.stack(centred))[0, 1])
    shift = torch.tensor([5.0, 5.0, 5.0, -7.0, -7.0, -7.0])
    assert within_group_correlation(x + shift, y - shift, group) == pytest.approx(expected)
    assert within_group_correlation(torch.ones(6), y, group) == 0.0
