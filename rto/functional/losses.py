"""Losses of the PPO lineage, supervised fine-tuning and the reward model.

A loss takes its denominators (``LossNorm``: counts of the whole optimizer step) and returns a
``LossOutput`` whose loss and metrics add up over micro-batches and ranks. Inputs are masked before
anything else is computed from them, so neither value nor gradient sees the padding.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rto.functional.masked import check_masked, masked_mean, masked_sum, zero_masked
from rto.types import LossNorm, LossOutput

Reduction = Literal["token", "sequence"]
ISCorrection = Literal["tis", "icepop", "seq-tis", "seq-mask-tis"]

LOG_RATIO_CLAMP = 20.0
"""Bound of a token's log-ratio before exp, which overflows fp32 at 89; no paper has it."""


def aggregate(x: Tensor, *, mask: Tensor, norm: LossNorm, reduction: Reduction) -> Tensor:
    """This shard's part of the step's mean of x [B, T].

    "token" weights all tokens of the step alike; "sequence" takes each row's own mean first.
    """
    match reduction:
        case "token":
            return masked_sum(x, mask) / norm.tokens
        case "sequence":
            return masked_mean(x, mask, dim=-1).sum() / norm.sequences
        case _:
            raise ValueError(f"loss reduction is {reduction!r}: expected token or sequence")


def policy_loss(
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    norm: LossNorm,
    clip_low_high: tuple[float, float],
    dual_clip: float | None = None,
    weights: tuple[Tensor, Tensor] | None = None,
    reduction: Reduction = "token",
) -> LossOutput:
    """PPO's clipped surrogate (arXiv 1707.06347, eq 7), negated; all tensors [B, T].

    ``dual_clip`` c bounds the objective from below by c * A where A < 0 (arXiv 1912.09729).
    The first of ``weights`` multiplies the loss of each token (see ``sampler_weights``).
    """
    check_masked(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    log_ratio = zero_masked(logprobs, mask) - zero_masked(old_logprobs, mask)
    advantages = zero_masked(advantages, mask)
    ratio = log_ratio.clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp()
    low, high = clip_low_high
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - low, 1 + high) * advantages
    objective = torch.minimum(unclipped, clipped)
    if dual_clip is not None:
        bounded = torch.maximum(objective, dual_clip * advantages)
        objective = torch.where(advantages < 0, bounded, objective)
    observed = {
        "policy/clip_share": (clipped < unclipped).float(),
        "policy/approx_kl": -log_ratio,
        "policy/ratio": ratio,
    }
    if weights is not None:
        weight, outside = weights
        objective = weight * objective
        observed["policy/sampler_weight"] = weight
        observed["policy/sampler_outside"] = outside.float()
    loss = -aggregate(objective, mask=mask, norm=norm, reduction=reduction)
    metrics = {name: _token_mean(x, mask, norm) for name, x in observed.items()}
    return LossOutput(loss, {"policy/loss": loss.detach(), **metrics})


def value_loss(
    *,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    norm: LossNorm,
    clip: float | None,
    reduction: Reduction = "token",
) -> LossOutput:
    """Half the squared error (arXiv 1707.06347, eq 9) of the value; all tensors [B, T].

    With ``clip`` it is the larger of that and the error of the value held within +-clip of the old
    one, as in OpenAI's code; the paper has no such bound.
    """
    check_masked(mask, values=values, old_values=old_values, returns=returns)
    values, old_values = zero_masked(values, mask), zero_masked(old_values, mask)
    returns = zero_masked(returns, mask)
    error = (values - returns).square()
    clip_share = torch.zeros_like(error)
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        near_error = (near - returns).square()
        clip_share = (near_error > error).float()
        error = torch.maximum(error, near_error)
    loss = 0.5 * aggregate(error, mask=mask, norm=norm, reduction=reduction)
    metrics = {
        "critic/loss": loss.detach(),
        "critic/clip_share": _token_mean(clip_share, mask, norm),
        "critic/value": _token_mean(values, mask, norm),
    }
    return LossOutput(loss, metrics)


def sft_loss(*, logprobs: Tensor, mask: Tensor, norm: LossNorm) -> LossOutput:
    """Negative log-likelihood per response token; logprobs [B, T]."""
    loss = -masked_sum(logprobs, mask) / norm.tokens
    return LossOutput(loss, {"sft/loss": loss.detach()})


def pairwise_loss(*, chosen: Tensor, rejected: Tensor, num_pairs: float) -> LossOutput:
    """Bradley-Terry (arXiv 2203.02155, eq 1): -log sigmoid(chosen - rejected), scores [pairs]."""
    if chosen.shape != rejected.shape:
        raise ValueError(f"{tuple(chosen.shape)} chosen scores, {tuple(rejected.shape)} rejected")
    margin = chosen.float() - rejected.float()
    loss = -logsigmoid(margin).sum() / num_pairs
    observed = {
        "accuracy": (margin > 0).float(),
        "margin": margin,
        "chosen": chosen.float(),
        "rejected": rejected.float(),
    }
    metrics = {f"reward_model/{k}": x.detach().sum() / num_pairs for k, x in observed.items()}
    return LossOutput(loss, {"reward_model/loss": loss.detach(), **metrics})


def sampler_weights(
    *,
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    mask: Tensor,
    kind: ISCorrection,
    threshold: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Weights [B, T] for tokens drawn by a sampler whose log-probs differ from the trainer's, and
    which of them [B, T] the threshold changed.

    With w = pi_trainer / pi_sampler per token: "tis" clamps w to the threshold; "icepop" drops
    tokens whose w lies outside. Of whole responses, "seq-tis" gives every token the product of
    the response's w, clamped; "seq-mask-tis" drops responses whose geometric mean of w lies
    outside, and keeps w for the others.
    """
    check_masked(mask, old_logprobs=old_logprobs, sampler_logprobs=sampler_logprobs)
    log_weight = zero_masked(old_logprobs - sampler_logprobs, mask).detach()
    weight = log_weight.exp()
    low, high = threshold
    match kind:
        case "tis" | "icepop":
            judged = weight
        case "seq-tis":
            judged = log_weight.sum(-1, keepdim=True).exp().expand_as(weight)
        case "seq-mask-tis":
            judged = masked_mean(log_weight, mask, dim=-1).exp().unsqueeze(-1).expand_as(weight)
        case _:
            raise ValueError(
                f"importance correction is {kind!r}: expected tis, icepop, seq-tis or seq-mask-tis"
            )
    outside = ((judged < low) | (judged > high)) & mask
    if kind in ("tis", "seq-tis"):
        return judged.clamp(low, high), outside
    return torch.where((judged >= low) & (judged <= high), weight, 0.0), outside


def sampler_mismatch(
    *, logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """How far the sampler's log-probs [B, T] are from the trainer's, over a whole batch.

    k1 and k3 estimate KL(sampler || trainer). The effective share is (sum w)^2 / (B sum w^2) of the
    responses' weights w, the product of their tokens' ratios: 1 where all weigh the same, 1 / B
    where one outweighs all (Kong 1992).
    """
    check_masked(mask, logprobs=logprobs, sampler_logprobs=sampler_logprobs)
    d = zero_masked(logprobs.float() - sampler_logprobs.float(), mask)
    response = d.double().sum(-1)
    effective = 2 * response.logsumexp(0) - (2 * response).logsumexp(0) - math.log(len(response))
    return {
        "sampler/abs_diff_mean": masked_mean(d.abs(), mask),
        "sampler/abs_diff_max": d.abs().max(),
        "sampler/ratio": masked_mean(d.exp(), mask),
        "sampler/k1": masked_mean(-d, mask),
        "sampler/k3": masked_mean(d.exp() - 1 - d, mask),
        "sampler/effective_share": effective.exp().float(),
    }


def _token_mean(x: Tensor, mask: Tensor, norm: LossNorm) -> Tensor:
    return masked_sum(x.detach(), mask) / norm.tokens
