"""Reward Partitioning Optimization (arXiv 2506.13702): the partition and the regression onto it.

With r the reward and tau the temperature, the KL-regularised optimum satisfies
log pi*/pi_ref = r / tau - log Z(x), where Z(x) = E_{y ~ pi_ref} exp(r / tau). Z is estimated from
the responses that share a prompt, so every row has one scalar target and no value network is
trained. ``scaled`` [B] is r / tau; every estimate is log Z of each row's prompt [B].
"""

from __future__ import annotations

from torch import Tensor

from rpo_ext.functional.checks import require_responses
from rto.functional.segments import (
    require_rows,
    segment_logsumexp,
    segment_logsumexp_others,
    segment_size,
)
from rto.types import LossNorm, LossOutput


def uniform_log_partition(scaled: Tensor, group: Tensor) -> Tensor:
    """log mean_j exp(r_j / tau): unbiased for Z when the responses come from pi_ref.

    Also the estimate of Kimi k1.5 (arXiv 2501.12599). One response alone gets the target 0.
    """
    return segment_logsumexp(scaled, group) - segment_size(scaled, group).log()


def ref_log_partition(*, scaled: Tensor, ref_logprobs: Tensor, group: Tensor) -> Tensor:
    """log sum_j pi_ref(y_j) exp(r_j / tau), the released code's weights; ref_logprobs [B].

    It has no 1 / N: the targets plus log pi_ref are a log-softmax over the responses seen, which
    asks them to hold all probability. Summed log-probs then mean memorisation, so the authors
    average them over tokens. One response alone is pushed to log-prob 0 whatever its reward.
    """
    require_rows(scaled=scaled, ref_logprobs=ref_logprobs)
    return segment_logsumexp(scaled + ref_logprobs, group)


def loo_log_partition(scaled: Tensor, group: Tensor) -> Tensor:
    """log mean over the prompt's other responses: a row's own reward does not shrink its target."""
    require_responses(group, minimum=2, what="the leave-one-out partition")
    return segment_logsumexp_others(scaled, group) - (segment_size(scaled, group) - 1).log()


def batch_mean_log_partition(*, scaled: Tensor, ref_logprobs: Tensor, group: Tensor) -> Tensor:
    """One log Z for all rows: the mean of ``ref_log_partition`` over the batch.

    This is what the released code optimises: its V has shape [B, 1], so the target broadcasts to
    [B, B] and V's mean over the micro-batch (16, 4 or 2 rows there, the whole batch here) takes
    the place of the prompt's V in the gradient. An ablation, not an estimate of Z.
    """
    each = ref_log_partition(scaled=scaled, ref_logprobs=ref_logprobs, group=group)
    return each.mean().expand_as(each)


def importance_log_partition(
    *, scaled: Tensor, ref_logprobs: Tensor, sampler_logprobs: Tensor, group: Tensor
) -> Tensor:
    """log mean_j w_j exp(r_j / tau), w = pi_ref / pi_sampler; log-probs [B].

    Unbiased for Z when the responses come from the sampler and log-probs are summed over tokens.
    """
    require_rows(scaled=scaled, ref_logprobs=ref_logprobs, sampler_logprobs=sampler_logprobs)
    return uniform_log_partition(scaled + ref_logprobs - sampler_logprobs, group)


def partition_loss(*, log_ratio: Tensor, targets: Tensor, norm: LossNorm) -> LossOutput:
    """Mean over rows of 1/2 (log pi/pi_ref - target)^2, log_ratio and targets [B].

    This is DRO's loss over tau^2, as in the released code, and independent of the reward's unit
    as long as tau follows it.
    """
    require_rows(log_ratio=log_ratio, targets=targets)
    loss = 0.5 * (log_ratio - targets).square().sum() / norm.sequences
    return LossOutput(loss, {"rpo/loss": loss.detach()})
