"""One number per response: log-probs reduced over tokens, and what is reported of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from rto.functional.masked import masked_mean, masked_sum
from rto.functional.segments import require_rows
from rto.types import LossNorm

Reduction = Literal["sum", "mean"]


def reduce_logprobs(logprobs: Tensor, mask: Tensor, *, reduction: Reduction) -> Tensor:
    """log pi(y | x) of each response [B] from its tokens' log-probs [B, T], in fp32 or better.

    "sum" is the log-probability of the theory; "mean" divides by the response's length, as the
    authors of RPO do in all their scripts. A log-ratio of means is log pi/pi_ref over |y|: a
    temperature then acts as temperature * |y|.
    """
    logprobs = logprobs.to(torch.promote_types(logprobs.dtype, torch.float32))
    match reduction:
        case "sum":
            return masked_sum(logprobs, mask, dim=-1)
        case "mean":
            return masked_mean(logprobs, mask, dim=-1)
        case _:
            raise ValueError(f"log-prob reduction is {reduction!r}: expected sum or mean")


def sequence_kl(
    log_ratio: Tensor, mask: Tensor, *, reduction: Reduction, norm: LossNorm
) -> dict[str, Tensor]:
    """``policy/log_ratio``: this shard's part of the mean summed log-ratio [B]; mask [B, T].

    It estimates KL(pi || pi_ref) on responses drawn from the policy. On stored ones it is only
    how far the policy has moved on them.
    """
    summed = log_ratio if reduction == "sum" else log_ratio * mask.sum(-1)
    return {"policy/log_ratio": summed.detach().sum() / norm.sequences}


def moments(*, log_ratio: Tensor, target: Tensor, norm: LossNorm, area: str) -> dict[str, Tensor]:
    """First and second moments of two [B], additive over shards: what ``correlation`` reads."""
    require_rows(log_ratio=log_ratio, target=target)
    x, y = log_ratio.detach(), target.detach()
    observed = {
        "log_ratio": x,
        "log_ratio_square": x.square(),
        "target": y,
        "target_square": y.square(),
        "log_ratio_target": x * y,
    }
    return {f"{area}/{name}": value.sum() / norm.sequences for name, value in observed.items()}


def correlation(metrics: Mapping[str, float], *, area: str) -> float:
    """Pearson's correlation of log-ratio and target from the metrics of ``moments``.

    0 where either does not vary.
    """
    x, xx, y, yy, xy = (
        metrics[f"{area}/{name}"]
        for name in ("log_ratio", "log_ratio_square", "target", "target_square", "log_ratio_target")
    )
    scale = max(xx - x * x, 0.0) * max(yy - y * y, 0.0)
    return (xy - x * y) / scale**0.5 if scale > 0 else 0.0
