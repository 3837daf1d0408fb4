"""Estimators of KL(policy || reference) from the sampled tokens, and the adaptive coefficient."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rto.functional.masked import check_masked, zero_masked

Estimator = Literal["k1", "k2", "k3"]

CLAMP = 10.0
"""Bound of every estimate, as in OpenRLHF; the RTO authors' own code has none on k1."""


def kl_penalty(
    *, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, estimator: Estimator
) -> Tensor:
    """Per-token KL estimate [B, T] in fp32, clamped to +-10 and 0 where the mask is False.

    With d = log pi - log pi_ref (Schulman, joschu.net/blog/kl-approx.html): k1 = d is unbiased and
    belongs in the reward; k2 = d^2 / 2 and k3 = exp(-d) - 1 + d are never negative and belong in
    the loss, where the expected gradient of k1 is 0.
    """
    check_masked(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    d = zero_masked(logprobs.float(), mask) - zero_masked(ref_logprobs.float(), mask)
    match estimator:
        case "k1":
            value = d
        case "k2":
            value = d.square() / 2
        case "k3":
            # Below -CLAMP the result is cut anyway; exp there would give 0 * inf in the gradient.
            bounded = d.clamp(min=-CLAMP)
            value = (-bounded).exp() - 1 + bounded
        case _:
            raise ValueError(f"KL estimator is {estimator!r}: expected k1, k2 or k3")
    return value.clamp(-CLAMP, CLAMP)


def adaptive_kl_coef(
    coef: float, *, observed: float, target: float, horizon: float, num_samples: int
) -> float:
    """The next KL coefficient (Ziegler et al. 2019, arXiv 1909.08593, section 2.2)."""
    error = min(max(observed / target - 1, -0.2), 0.2)
    return coef * (1 + error * num_samples / horizon)
