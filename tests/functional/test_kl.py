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
