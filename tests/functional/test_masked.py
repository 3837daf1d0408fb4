from __future__ import annotations

import pytest
import torch

from rto.functional.masked import masked_mean, masked_sum, masked_var, whiten, zero_masked

X = torch.tensor([[1.0, 2.0, float("nan")], [6.0, float("inf"), float("nan")]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_sums_and_means_see_the_true_entries_only():
    assert masked_sum(X, MASK) == 9
    assert masked_mean(X, MASK) == 3
    assert masked_mean(X, MASK, denominator=18) == 0.5
    assert masked_sum(X, MASK, dim=-1).tolist() == [3, 6]
    assert masked_mean(X, MASK, dim=-1).tolist() == [1.5, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.long, torch.bool])
def test_zeros_are_those_of_masked_fill_in_the_same_dtype(dtype: torch.dtype) -> None:
    x = torch.tensor([[3, 2, 1], [6, 5, 4]]).to(dtype)
    zeroed, filled = zero_masked(x, MASK), x.masked_fill(~MASK, 0)
    assert zeroed.dtype == filled.dtype
    assert torch.equal(zeroed, filled)


def test_gradients_pass_where_the_mask_is_true_alone() -> None:
    x = X.clone().requires_grad_()
    zero_masked(x, MASK).square().sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[2.0, 4.0, 0.0], [12.0, 0.0, 0.0]]


def test_variance_is_the_population_variance():
    assert masked_var(X, MASK) == ((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 3


def test_whiten_gives_mean_0_and_variance_1_and_zero_padding():
    white = whiten(X, MASK)
    assert torch.equal(white[~MASK], torch.zeros(3))
    torch.testing.assert_close(white[MASK].mean(), torch.tensor(0.0))
    torch.testing.assert_close(white[MASK].var(correction=0), torch.tensor(1.0))


def test_whiten_without_scale_only_centres():
    assert whiten(X, MASK, scale=False)[MASK].tolist() == [-2, -1, 3]


@pytest.mark.parametrize(("size", "expected"), [(1e-2, 1.0), (1e-5, 0.1)])
def test_whiten_scales_by_the_deviation_down_to_1e_4(size: float, expected: float):
    """Of -size and size the deviation is size; below the square root of 1e-8 it is bounded."""
    white = whiten(torch.tensor([[-size, size]]), torch.ones(1, 2, dtype=torch.bool))
    assert white[0].tolist() == pytest.approx([-expected, expected], rel=1e-4)


def test_whiten_of_a_constant_stays_finite():
    assert torch.equal(whiten(torch.ones(2, 3), MASK), torch.zeros(2, 3))


def test_padding_gets_no_gradient():
    x = X.clone().requires_grad_()
    masked_mean(x, MASK).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[pytest.approx(1 / 3)] * 2 + [0], [pytest.approx(1 / 3), 0, 0]]


def test_a_mask_that_is_not_bool_or_has_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"dtype torch\.float32"):
        masked_sum(X, MASK.float())
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\), its mask \(2, 2\)"):
        masked_sum(X, MASK[:, :2])
