"""Losses on pairs. Rows 2i and 2i + 1 of a batch are the chosen and rejected response of pair i."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rto.functional.masked import check_masked, masked_mean, masked_sum
from rto.types import LossNorm, LossOutput


def split_pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Chosen and rejected rows [pairs, ...] of a tensor [2 * pairs, ...]."""
    if len(rows) % 2:
        raise ValueError(f"{len(rows)} rows do not form pairs of chosen and rejected")
    return rows[0::2], rows[1::2]


def check_pairs(group: Tensor) -> None:
    """Raise unless rows 2i and 2i + 1 answer the same prompt; group [B]."""
    chosen, rejected = split_pairs(group)
    if not torch.equal(chosen, rejected):
        pair = int((chosen != rejected).nonzero()[0])
        raise ValueError(f"rows {2 * pair} and {2 * pair + 1} of the pairs answer two prompts")


def dpo_loss(
    *,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    norm: LossNorm,
    beta: float,
    label_smoothing: float = 0.0,
    nll_coef: float = 0.0,
) -> LossOutput:
    """DPO (arXiv 2305.18290, eq 7), conservative DPO with label smoothing; log-probs [B, T].

    ``nll_coef`` adds the chosen responses' negative log-likelihood per token, averaged over pairs.
    """
    check_masked(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    num_pairs = norm.groups
    log_ratio = masked_sum(logprobs, mask, dim=-1) - masked_sum(ref_logprobs, mask, dim=-1)
    chosen, rejected = split_pairs(beta * log_ratio)
    margin = chosen - rejected
    losses = (label_smoothing - 1) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    nll = -split_pairs(masked_mean(logprobs, mask, dim=-1))[0]
    loss = (losses + nll_coef * nll).sum() / num_pairs
    observed = {
        "accuracy": (margin > 0).float(),
        "margin": margin,
        "chosen": chosen,
        "rejected": rejected,
        "nll": nll,
    }
    metrics = {f"preference/{k}": x.detach().sum() / num_pairs for k, x in observed.items()}
    return LossOutput(loss, {"preference/loss": loss.detach(), **metrics})
