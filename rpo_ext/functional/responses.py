"""One number per response: log-probs reduced over tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rto.functional.masked import masked_mean, masked_sum

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
