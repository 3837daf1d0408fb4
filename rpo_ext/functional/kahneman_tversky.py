"""Kahneman-Tversky Optimization (arXiv 2402.01306)."""

from __future__ import annotations

import torch
from torch import Tensor

from rto.functional.segments import require_rows, segment_mean
from rto.types import LossNorm, LossOutput


def mismatched_reference_point(unrelated: Tensor) -> Tensor:
    """z0 of each row [B]: mean log pi/pi_ref of prompts with unrelated responses [B], at least 0.

    TRL takes the mean over a micro-batch and averages it over ranks; ours is the mean over the
    whole batch, so it does not depend on how the batch is cut.
    """
    return unrelated.detach().mean().clamp(min=0).expand_as(unrelated)


def matched_reference_point(log_ratio: Tensor) -> Tensor:
    """z0 of each row [B] as the authors of RPO have it: the mean log-ratio of the very responses.

    It is not an estimate of a KL and may be negative. Theirs is over a micro-batch of 2 to 16.
    """
    return log_ratio.detach().mean().expand_as(log_ratio)


def above_prompt_mean(rewards: Tensor, group: Tensor) -> Tensor:
    """Which rewards [B] reach their prompt's mean, bool [B].

    In fp64, where the mean of equal fp32 rewards is exactly their value.
    """
    rewards = rewards.double()
    return rewards >= segment_mean(rewards, group)


def kto_loss(
    *,
    log_ratio: Tensor,
    reference_point: Tensor,
    desirable: Tensor,
    norm: LossNorm,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    saturation: float | None = None,
) -> LossOutput:
    """Mean over rows of w (1 - sigmoid(+-beta (log pi/pi_ref - z0))); all tensors [B].

    It is equation 8 of the paper (arXiv 2402.01306).

    The sign is + for desirable rows. ``saturation`` bounds the sigmoid's argument, as the authors
    of RPO do at 20; the paper has no bound.
    """
    require_rows(log_ratio=log_ratio, reference_point=reference_point, desirable=desirable)
    margin = beta * (log_ratio - reference_point)
    if saturation is not None:
        margin = margin.clamp(-saturation, saturation)
    signed = torch.where(desirable, margin, -margin)
    weight = torch.where(desirable, desirable_weight, undesirable_weight).to(signed.dtype)
    # 1 - sigmoid(x) is sigmoid(-x), which does not cancel where x is large.
    loss = (weight * (-signed).sigmoid()).sum() / norm.sequences
    metrics = {
        "kto/loss": loss.detach(),
        "kto/margin": signed.detach().sum() / norm.sequences,
        "kto/accuracy": (signed.detach() > 0).float().sum() / norm.sequences,
    }
    return LossOutput(loss, metrics)
