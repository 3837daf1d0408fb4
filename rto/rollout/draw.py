"""One token per row from logits, by given random numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rto.rollout.requests import Sampling


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probs [B] under the distribution drawn from: logits [B, V] over the
    temperature, cut by min_p, top_k and top_p in vLLM's order, and renormalised. Temperature 0
    takes the likeliest token.

    ``uniforms`` [B] in [0, 1): the token is the first whose cumulative probability exceeds it.
    """
    if sampling.temperature == 0:
        logprobs = logits.log_softmax(-1)
        ids = logprobs.argmax(-1)
    else:
        logprobs = _cut(logits / sampling.temperature, sampling)
        cumulative = logprobs.double().exp().cumsum(-1)
        ids = (cumulative <= uniforms.double()[:, None] * cumulative[:, -1:]).sum(-1)
    return ids, logprobs.gather(-1, ids[:, None]).squeeze(-1)


def nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """The fewest tokens whose probabilities reach ``top_p``, renormalised: [B, V] -> [B, V]."""
    if top_p == 1:
        return logprobs
    ordered, places = logprobs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, places, before < top_p)
    return logprobs.masked_fill(~kept, -torch.inf).log_softmax(-1)


def _cut(logits: Tensor, sampling: Sampling) -> Tensor:
    """Log-probs [B, V] of the tokens that the settings keep; -inf for the others."""
    if sampling.min_p > 0:
        least = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, -torch.inf)
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return nucleus(logits.log_softmax(-1), sampling.top_p)
