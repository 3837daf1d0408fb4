"""Reward-aware Preference Optimization (arXiv 2502.00203): distances between reward differences.

``implicit`` [B] is a = beta log pi/pi_ref, ``target`` [B] is b = eta r. Only differences within a
prompt matter: adding a constant per prompt to either changes nothing. q(v) is the softmax of v
over the responses of one prompt. Each distance returns one term per row [B]; a prompt's distance
is the sum of its rows' terms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rpo_ext.functional.checks import require_responses
from rto.functional.segments import (
    require_rows,
    segment_log_softmax,
    segment_max,
    segment_mean,
    segment_size,
    segment_sum,
    sum_over_groups,
)
from rto.types import LossNorm


def kl_target_policy(*, implicit: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """KL(q(b) || q(a)): the target weights the sum. Gradient q(a) - q(b) per implicit reward.

    The paper's "backward" KL (eq 4 and 13) and NeMo-Aligner's rpo_bwd_kl.
    """
    require_rows(implicit=implicit, target=target)
    log_policy = segment_log_softmax(implicit, group)
    log_target = segment_log_softmax(target, group)
    return log_target.exp() * (log_target - log_policy)


def kl_policy_target(*, implicit: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """KL(q(a) || q(b)): the policy weights the sum.

    The paper's eq 10 repeats the backward formula for its "forward" KL; this is the formula of
    NeMo-Aligner's rpo_fwd_kl, which the name asks for.
    """
    return kl_target_policy(implicit=target, target=implicit, group=group)


def sqloo(*, implicit: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """1/2 (ahat - bhat)^2 with leave-one-out centring vhat_k = v_k - mean_{j != k} v_j.

    For two responses the sum is (da - db)^2: NeMo-Aligner's rpo_sq, and twice the paper's D_sq.
    """
    require_rows(implicit=implicit, target=target)
    require_responses(group, minimum=2, what="leave-one-out centring")
    gap = implicit - target
    size = segment_size(gap, group)
    # Centring is linear: of the gap it is ahat - bhat, and leave-one-out is a factor N / (N - 1).
    return 0.5 * (size / (size - 1) * (gap - segment_mean(gap, group))).square()


def best(values: Tensor, group: Tensor) -> Tensor:
    """Weights [B] that pick each prompt's largest value, shared evenly by ties; they sum to 1."""
    largest = (values.detach() == segment_max(values, group)).to(values.dtype)
    return largest / segment_sum(largest, group)


def target_entropy(target: Tensor, group: Tensor) -> Tensor:
    """Mean over prompts of the entropy of q(b) over log K; near 1 the target says little."""
    require_responses(group, minimum=2, what="the target's entropy")
    log_target = segment_log_softmax(target, group)
    entropy = segment_sum(-log_target.exp() * log_target, group) / segment_size(target, group).log()
    return sum_over_groups(entropy, group) / len(group.unique())


def concordance(*, implicit: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """Share [B] of the prompt's reward gaps that the implicit rewards order alike.

    Pairs weigh by their gap; a tie of implicit rewards counts half, and so does a prompt whose
    rewards are all equal.
    """
    same = group[:, None] == group[None, :]
    gap = (target[:, None] - target[None, :]).masked_fill(~same, 0)
    order = (implicit[:, None] - implicit[None, :]).sign() * gap.sign()
    agreed = gap.abs() * (1 + order) / 2
    total = segment_sum(gap.abs().sum(-1), group)
    share = segment_sum(agreed.sum(-1), group) / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, share, 0.5)


def observe(
    *, log_ratio: Tensor, rewards: Tensor, group: Tensor, norm: LossNorm
) -> dict[str, Tensor]:
    """Additive means over prompts: agreement of the rankings, log-ratio of best and worst row."""
    log_ratio = log_ratio.detach()
    top = best(rewards, group)
    policy_top = best(log_ratio, group)
    agreement = segment_sum(policy_top * (top > 0), group)
    ordered = concordance(implicit=log_ratio, target=rewards, group=group)
    sums = {
        "top1_agreement": sum_over_groups(agreement, group),
        "concordance": sum_over_groups(ordered, group),
        "best_log_ratio": (top * log_ratio).sum(),
        "worst_log_ratio": (best(-rewards, group) * log_ratio).sum(),
    }
    return {f"reward_aware/{name}": value / norm.groups for name, value in sums.items()}
