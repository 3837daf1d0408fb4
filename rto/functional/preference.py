"""Losses on pairs. Rows 2i and 2i + 1 of a batch are the chosen and rejected response of pair i.

Each loss gives every response a score, its implicit reward, and wants the chosen one's above the
rejected one's. Losses and metrics are means over pairs (``LossNorm.groups``); ``nll_coef`` adds
the chosen responses' negative log-likelihood per token, averaged over pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rto.functional.masked import check_masked, masked_mean, masked_sum
from rto.types import LossNorm, LossOutput

Reduction = Literal["mean", "sum"]


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


def log_ratio(*, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log pi(y|x) / pi_ref(y|x) of each response [B]; log-probs [B, T]."""
    check_masked(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    return masked_sum(logprobs, mask, dim=-1) - masked_sum(ref_logprobs, mask, dim=-1)


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
    """DPO (arXiv 2305.18290, eq 7), conservative DPO with label smoothing; log-probs [B, T]."""
    ratio = log_ratio(logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask)
    chosen, rejected = split_pairs(beta * ratio)
    losses = _logistic(chosen - rejected, label_smoothing=label_smoothing)
    nll = _chosen_nll(logprobs, mask)
    return _mean(losses, chosen=chosen, rejected=rejected, nll=nll, nll_coef=nll_coef, norm=norm)


def ipo_loss(
    *,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    norm: LossNorm,
    beta: float,
    reduction: Reduction,
    nll_coef: float = 0.0,
) -> LossOutput:
    """IPO (arXiv 2310.12036, eq 17): (h - 1 / (2 beta))^2, h the difference of the log-ratios.

    Log-probs [B, T]. The paper's log-ratios are those of whole responses ("sum", OpenRLHF); TRL
    takes their mean per token ("mean"), with which, it says, the paper's results were obtained.
    """
    ratio = log_ratio(logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask)
    match reduction:
        case "mean":
            ratio = ratio / mask.sum(-1).clamp(min=1)
        case "sum":
            pass
        case _:
            raise ValueError(f"IPO reduction is {reduction!r}: expected mean or sum")
    chosen, rejected = split_pairs(ratio)
    losses = (chosen - rejected - 1 / (2 * beta)).square()
    return _mean(
        losses,
        chosen=beta * chosen,
        rejected=beta * rejected,
        nll=_chosen_nll(logprobs, mask),
        nll_coef=nll_coef,
        norm=norm,
    )


def rdpo_loss(
    *,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    norm: LossNorm,
    beta: float,
    alpha: float,
    nll_coef: float = 0.0,
) -> LossOutput:
    """R-DPO (arXiv 2403.19159): DPO whose reward has the term + alpha |y|; log-probs [B, T].

    The sign follows from the objective E[r - alpha |y|] - beta KL, whose optimum has
    r = beta log-ratio + alpha |y| + const: a longer winner is already ahead and gains less. The
    minus that some write-ups print would reward length.
    """
    ratio = log_ratio(logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask)
    chosen, rejected = split_pairs(beta * ratio + alpha * mask.sum(-1))
    losses = _logistic(chosen - rejected)
    nll = _chosen_nll(logprobs, mask)
    return _mean(losses, chosen=chosen, rejected=rejected, nll=nll, nll_coef=nll_coef, norm=norm)


def simpo_loss(
    *,
    logprobs: Tensor,
    mask: Tensor,
    norm: LossNorm,
    beta: float,
    gamma: float,
    label_smoothing: float = 0.0,
    nll_coef: float = 0.0,
) -> LossOutput:
    """SimPO (arXiv 2405.14734, eq 6); log-probs [B, T], no reference.

    The reward is beta times the mean log-prob per token, to be ahead by ``gamma``. Our gamma is
    the paper's; the authors' code and models give gamma / beta. Metrics leave gamma out.
    """
    chosen, rejected = split_pairs(beta * masked_mean(logprobs, mask, dim=-1))
    losses = _logistic(chosen - rejected - gamma, label_smoothing=label_smoothing)
    nll = _chosen_nll(logprobs, mask)
    return _mean(losses, chosen=chosen, rejected=rejected, nll=nll, nll_coef=nll_coef, norm=norm)


def tdpo_loss(
    *,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    reference_kl: Tensor,
    mask: Tensor,
    norm: LossNorm,
    beta: float,
    alpha: float,
    detach_chosen: bool,
    nll_coef: float = 0.0,
) -> LossOutput:
    """TDPO (arXiv 2404.11999): the reward is beta (log-ratio + alpha D), all tensors [B, T].

    D sums ``reference_kl``, KL(reference || policy) at each token. TDPO1 has alpha 1 and the
    gradient of both D; TDPO2 stops that of the chosen response's (``detach_chosen``). Metrics
    hold this reward; the authors log TDPO2's as if alpha were 1.
    """
    ratio = log_ratio(logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask)
    chosen_ratio, rejected_ratio = split_pairs(ratio)
    chosen_kl, rejected_kl = split_pairs(masked_sum(reference_kl, mask, dim=-1))
    if detach_chosen:
        chosen_kl = chosen_kl.detach()
    chosen = beta * (chosen_ratio + alpha * chosen_kl)
    rejected = beta * (rejected_ratio + alpha * rejected_kl)
    losses = _logistic(chosen - rejected)
    nll = _chosen_nll(logprobs, mask)
    output = _mean(losses, chosen=chosen, rejected=rejected, nll=nll, nll_coef=nll_coef, norm=norm)
    divergences = {"preference/chosen_kl": chosen_kl, "preference/rejected_kl": rejected_kl}
    observed = {name: kl.detach().sum() / norm.groups for name, kl in divergences.items()}
    return LossOutput(output.loss, {**output.metrics, **observed})


def _logistic(margin: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(margin), with the flipped preference mixed in (cDPO)."""
    return (label_smoothing - 1) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def _chosen_nll(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood per token of each chosen response [pairs]."""
    return -split_pairs(masked_mean(logprobs, mask, dim=-1))[0]


def _mean(
    losses: Tensor,
    *,
    chosen: Tensor,
    rejected: Tensor,
    nll: Tensor,
    nll_coef: float,
    norm: LossNorm,
) -> LossOutput:
    """This shard's part of the mean over the step's pairs; all tensors [pairs]."""
    loss = (losses + nll_coef * nll).sum() / norm.groups
    observed = {
        "accuracy": (chosen > rejected).float(),
        "margin": chosen - rejected,
        "chosen": chosen,
        "rejected": rejected,
        "nll": nll,
    }
    metrics = {f"preference/{k}": x.detach().sum() / norm.groups for k, x in observed.items()}
    return LossOutput(loss, {"preference/loss": loss.detach(), **metrics})
