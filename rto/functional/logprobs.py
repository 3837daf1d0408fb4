"""Log-probability of given tokens, in fp32, without keeping the [N, V] logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def selected_logprobs_naive(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-softmax of logits [..., V] at ids [...]: the definition, with everything in memory."""
    return logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def chunked_logprobs(
    hidden: Tensor,
    lm_head: Callable[[Tensor], Tensor],
    ids: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int = 1024,
    num_chunks: int | None = None,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [N] of ``ids`` [N] under softmax(lm_head(hidden) / temperature), hidden [N, H].

    The logits exist for ``chunk_size`` positions at a time; where gradients are on they are
    computed again in the backward pass, all but the last chunk's: the backward pass begins there,
    and computing them again would need the memory that keeping them does. ``lm_head`` is called
    as a module, once per chunk and pass, so that ZeRO-3 hooks see it: ranks then agree on
    ``num_chunks``, which replaces ``chunk_size``. The entropy [N] of the same distribution comes
    with it when asked for.
    """
    if hidden.dim() != 2 or ids.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)} and ids {tuple(ids.shape)}, "
            "expected [N, H] and [N]"
        )

    def of_chunk(hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = lm_head(hidden)
        if temperature != 1.0:
            logits = logits.float() / temperature
        # log_softmax keeps only its output for the backward; logsumexp and gather keep the logits
        # and two more chunks of gradient.
        all_logprobs = logits.log_softmax(-1, dtype=torch.float32)
        entropy = -(all_logprobs.exp() * all_logprobs).sum(-1) if with_entropy else None
        return all_logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1), entropy

    logprobs: list[Tensor] = []
    entropies: list[Tensor] = []
    count = num_chunks or max(1, math.ceil(len(ids) / chunk_size))
    chunks = zip(hidden.tensor_split(count), ids.tensor_split(count), strict=True)
    for index, chunk in enumerate(chunks):
        if torch.is_grad_enabled() and index < count - 1:
            selected, entropy = checkpoint(
                of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False
            )
        else:
            selected, entropy = of_chunk(*chunk)
        logprobs.append(selected)
        if entropy is not None:
            entropies.append(entropy)
    return torch.cat(logprobs), torch.cat(entropies) if with_entropy else None
