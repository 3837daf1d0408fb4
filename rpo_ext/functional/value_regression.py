"""Direct Reward Optimisation (arXiv 2405.19107): squared residuals of r - V - tau log pi/pi_ref.

All inputs are [B]: one reward, one value of the prompt, one log-ratio per response.
"""

from __future__ import annotations

from torch import Tensor

from rpo_ext.functional.checks import require_responses
from rto.functional.segments import require_rows, segment_mean, segment_size, sum_over_groups
from rto.types import LossNorm, LossOutput


def regularised_reward(*, rewards: Tensor, log_ratio: Tensor, tau: float) -> Tensor:
    """r - tau log pi/pi_ref [B]: its mean over a prompt's responses is the best V for this pi."""
    require_rows(rewards=rewards, log_ratio=log_ratio)
    return rewards - tau * log_ratio


def residual_loss(*, regularised: Tensor, baseline: Tensor, norm: LossNorm) -> LossOutput:
    """Mean over rows of 1/2 (r - tau log pi/pi_ref - baseline)^2 (eq 4, with V the baseline).

    What is detached decides whose loss it is. With the detached batch mean of ``regularised`` as
    the baseline it is DRO-P: 1/2 Var has the gradient E[(x - E x) (dx - E dx)] = E[(x - E x) dx].
    """
    require_rows(regularised=regularised, baseline=baseline)
    residual = regularised - baseline
    loss = 0.5 * residual.square().sum() / norm.sequences
    metrics = {
        "dro/loss": loss.detach(),
        "dro/residual": residual.detach().sum() / norm.sequences,
    }
    return LossOutput(loss, metrics)


def policy_loss(
    *, rewards: Tensor, values: Tensor, log_ratio: Tensor, tau: float, norm: LossNorm
) -> LossOutput:
    """DRO-V's policy loss: 1/2 (r - V - tau log pi/pi_ref)^2 / tau, V detached.

    Its gradient is Algorithm 1's -[(r - V) grad log pi - tau/2 grad (log pi/pi_ref)^2]: the
    squared residual's gradient is -tau (r - V - tau log pi/pi_ref) grad log pi, and the paper
    multiplies it by 1 / tau.
    """
    regularised = regularised_reward(rewards=rewards, log_ratio=log_ratio, tau=tau)
    squared = residual_loss(regularised=regularised, baseline=values.detach(), norm=norm)
    loss = squared.loss / tau
    return LossOutput(loss, {**squared.metrics, "dro/loss": loss.detach()})


def value_loss(*, values: Tensor, regularised: Tensor, norm: LossNorm) -> LossOutput:
    """DRO-V's value loss: 1/2 (V - r + tau log pi/pi_ref)^2, the policy's part detached."""
    squared = residual_loss(regularised=regularised.detach(), baseline=values, norm=norm)
    metrics = {
        "critic/loss": squared.loss.detach(),
        "critic/value": values.detach().sum() / norm.sequences,
    }
    return LossOutput(squared.loss, metrics)


def prompt_variance_loss(*, regularised: Tensor, group: Tensor, norm: LossNorm) -> LossOutput:
    """Mean over prompts of 1/2 Var_y (r - tau log pi/pi_ref) (appendix B): needs no value.

    The variance has the N - 1 of an unbiased estimate, so prompts with two responses weigh like
    those with many; it is half the mean squared difference of the prompt's pairs.
    """
    require_responses(group, minimum=2, what="the variance per prompt")
    size = segment_size(regularised, group)
    centred = regularised - segment_mean(regularised, group)
    loss = 0.5 * sum_over_groups(centred.square() * size / (size - 1), group) / norm.groups
    return LossOutput(loss, {"dro/loss": loss.detach()})
