"""Reward Partitioning Optimization (arXiv 2506.13702): the partition and the regression onto it.

With r the reward and tau the temperature, the KL-regularised optimum satisfies
log pi*/pi_ref = r / tau - log Z(x). The partition log Z is estimated from the responses that
share a prompt, so every row has one scalar target and no value network is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rto.types import LossNorm, LossOutput


def segment_logsumexp(values: Tensor, group: Tensor) -> Tensor:
    """log sum exp of ``values`` [B] over the rows of each group [B] -> [B], one entry per row.

    Shifted by the group's maximum: finite wherever the values are.
    """
    if values.shape != group.shape or values.dim() != 1:
        raise ValueError(f"values {tuple(values.shape)} and group {tuple(group.shape)}: need [B]")
    _, index = group.unique(return_inverse=True)
    count = int(index.max()) + 1
    largest = values.new_full((count,), -torch.inf).scatter_reduce(0, index, values, "amax")
    sums = values.new_zeros(count).scatter_add(0, index, (values - largest[index]).exp())
    return (largest + sums.log())[index]


def uniform_targets(rewards: Tensor, group: Tensor, *, tau: float) -> Tensor:
    """Target log-ratio of each row [B]: r / tau - log mean_j exp(r_j / tau) over its prompt.

    The log-mean-exp is unbiased for Z when the responses come from pi_ref. The released code sums
    without dividing by the number of responses and weighs by pi_ref, which makes one response
    alone regress onto log-prob 0 whatever its reward; here its target is 0 (no update).
    """
    if tau <= 0:
        raise ValueError(f"tau is {tau}: must be positive")
    scaled = rewards.double() / tau
    counts = segment_logsumexp(torch.zeros_like(scaled), group)
    return (scaled - segment_logsumexp(scaled, group) + counts).to(rewards.dtype)


def partition_loss(
    *, logprobs: Tensor, ref_logprobs: Tensor, targets: Tensor, norm: LossNorm
) -> LossOutput:
    """Mean over rows of 1/2 (log pi/pi_ref - target)^2; all inputs [B].

    The released code's V has shape [B, 1], so its target broadcasts to [B, B] and the batch mean
    of V takes the place of the prompt's. Shapes are checked here.
    """
    for name, value in (("ref_logprobs", ref_logprobs), ("targets", targets)):
        if value.shape != logprobs.shape or logprobs.dim() != 1:
            raise ValueError(
                f"{name} {tuple(value.shape)} and logprobs {tuple(logprobs.shape)}: need [B]"
            )
    gap = logprobs - ref_logprobs - targets
    loss = 0.5 * gap.square().sum() / norm.sequences
    return LossOutput(loss, {"rpo/loss": loss.detach()})
