from __future__ import annotations

import math

import pytest
import torch

from rto.functional.kl import adaptive_kl_coef, kl_penalty

MASK = torch.tensor([[True, True, True, False]])
LOGPROBS = torch.tensor([[-1.0, -2.0, -30.0, math.nan]])
REFERENCE = torch.tensor([[-1.5, -1.0, -1.0, math.nan]])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.5, -1.0, -10.0, 0.0]),
        ("k2", [0.125, 0.5, 10.0, 0.0]),
        ("k3", [math.exp(-0.5) - 1 + 0.5, math.e - 1 - 1, 10.0, 0.0]),
    ],
)
def test_estimators_by_hand(estimator, expected: list[float]):
    kl = kl_penalty(logprobs=LOGPROBS, ref_logprobs=REFERENCE, mask=MASK, estimator=estimator)
    torch.testing.assert_close(kl, torch.tensor([expected]))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_gradient_is_finite_and_0_in_the_padding(estimator):
    logprobs = LOGPROBS.clone().requires_grad_()
    kl_penalty(
        logprobs=logprobs, ref_logprobs=REFERENCE, mask=MASK, estimator=estimator
    ).sum().backward()
    assert logprobs.grad is not None
    assert bool(logprobs.grad.isfinite().all())
    assert logprobs.grad[0, 3] == 0
    assert logprobs.grad[0, 0] != 0


@pytest.mark.parametrize(
    ("estimator", "log_ratio", "expected", "slope"),
    [
        ("k1", 9.5, 9.5, 1.0),
        ("k1", 12.0, 10.0, 0.0),
        ("k1", -9.5, -9.5, 1.0),
        ("k1", -12.0, -10.0, 0.0),
        ("k2", 4.0, 8.0, 4.0),
        ("k2", -4.0, 8.0, -4.0),
        ("k2", 4.6, 10.0, 0.0),
        ("k2", -4.6, 10.0, 0.0),
        # d - 1 + exp(-d) reaches 10 just below d = 11.
        ("k3", 10.5, 9.5 + math.exp(-10.5), 1 - math.exp(-10.5)),
        ("k3", 12.0, 10.0, 0.0),
        # exp(2) - 1 - 2 = 4.39 and exp(2.6) - 1 - 2.6 = 9.86 are below 10, exp(2.7) - 3.7 = 11.2.
        ("k3", -2.0, math.exp(2.0) - 3.0, 1 - math.exp(2.0)),
        ("k3", -2.6, math.exp(2.6) - 3.6, 1 - math.exp(2.6)),
        ("k3", -2.7, 10.0, 0.0),
        # exp(200) is infinite in fp32, and 0 * inf is no number.
        ("k3", -200.0, 10.0, 0.0),
    ],
)
def test_every_estimate_keeps_its_value_and_slope_up_to_10_and_none_of_it_beyond(
    estimator, log_ratio: float, expected: float, slope: float
):
    """The slopes of d, d^2 / 2 and exp(-d) - 1 + d are 1, d and 1 - exp(-d)."""
    logprobs = torch.tensor([[log_ratio - 1.0]], requires_grad=True)
    kl = kl_penalty(
        logprobs=logprobs,
        ref_logprobs=torch.tensor([[-1.0]]),
        mask=torch.tensor([[True]]),
        estimator=estimator,
    )
    kl.sum().backward()
    assert kl.item() == pytest.approx(expected, rel=1e-5)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(slope, rel=1e-5)


def test_log_probs_of_half_precision_are_subtracted_in_fp32():
    """2^-7 - 9.5: bf16 has steps of 1/16 there, and would give -9.5."""
    kl = kl_penalty(
        logprobs=torch.tensor([[-9.5]], dtype=torch.bfloat16),
        ref_logprobs=torch.tensor([[-(2**-7)]], dtype=torch.bfloat16),
        mask=torch.tensor([[True]]),
        estimator="k1",
    )
    assert kl.item() == -9.5 + 2**-7


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator):
    policy = torch.tensor([0.2, 0.5, 0.3]).log()
    reference = torch.tensor([0.4, 0.4, 0.2]).log()
    kl = kl_penalty(
        logprobs=policy[None],
        ref_logprobs=reference[None],
        mask=torch.ones(1, 3, dtype=torch.bool),
        estimator=estimator,
    )
    torch.testing.assert_close(
        (policy.exp() * kl[0]).sum(), (policy.exp() * (policy - reference)).sum()
    )


def test_unknown_estimator_is_named():
    with pytest.raises(ValueError, match="'k4': expected k1, k2 or k3"):
        kl_penalty(logprobs=LOGPROBS, ref_logprobs=REFERENCE, mask=MASK, estimator="k4")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("observed", "factor"), [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (0.0, 0.98)]
)
def test_adaptive_coefficient_by_hand(observed: float, factor: float):
    coef = adaptive_kl_coef(0.2, observed=observed, target=6.0, horizon=2560, num_samples=256)
    assert coef == pytest.approx(0.2 * factor)
