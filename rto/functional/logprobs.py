"""Log-probability of given tokens, in fp32, without keeping the [N, V] logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def selected_logprobs_naive(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-softmax of logits [..., V] at ids [...]: the definition, with everything in memory."""
    return logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


Head = Callable[[Tensor], Tensor]


class TokenScores(NamedTuple):
    """One fp32 number per token, [N]; None for what was not asked for."""

    logprobs: Tensor
    entropy: Tensor | None
    reference_kl: Tensor | None


def chunked_logprobs(
    hidden: Tensor,
    lm_head: Head,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int = 1024,
    num_chunks: int | None = None,
    with_entropy: bool = False,
    reference: tuple[Tensor, Head] | None = None,
) -> TokenScores:
    """Log-probs [N] of ``ids`` [N] under softmax(lm_head(hidden) / temperature), hidden [N, H].

    The logits exist for ``chunk_size`` positions at a time; where gradients are on they are
    computed again in the backward pass, all but the last chunk's: the backward pass begins there,
    and computing them again would need the memory that keeping them does. ``lm_head`` is called
    as a module, once per chunk and pass, so that ZeRO-3 hooks see it: ranks then agree on
    ``num_chunks``, which replaces ``chunk_size``. The entropy [N] of the same distribution comes
    with it when asked for; and with the hidden states [N, H'] and head of a ``reference``, which
    gets no gradient, KL(reference || this distribution) over the vocabulary [N], both at the same
    temperature.
    """
    if hidden.dim() != 2 or ids.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)} and ids {tuple(ids.shape)}, "
            "expected [N, H] and [N]"
        )

    def of_chunk(hidden: Tensor, ids: Tensor, *ref_hidden: Tensor) -> TokenScores:
        all_logprobs = _log_softmax(lm_head, hidden, temperature=temperature)
        entropy = -(all_logprobs.exp() * all_logprobs).sum(-1) if with_entropy else None
        kl = None
        if reference is not None:
            with torch.no_grad():
                expected = _log_softmax(reference[1], *ref_hidden, temperature=temperature)
            kl = (expected.exp() * (expected - all_logprobs)).sum(-1)
        return TokenScores(all_logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1), entropy, kl)

    count = num_chunks or max(1, math.ceil(len(ids) / chunk_size))
    inputs = [hidden, ids] if reference is None else [hidden, ids, reference[0]]
    scores = _map_chunks(of_chunk, inputs, count)
    return TokenScores(
        logprobs=torch.cat([score.logprobs for score in scores]),
        entropy=_joined([score.entropy for score in scores]),
        reference_kl=_joined([score.reference_kl for score in scores]),
    )


def _log_softmax(head: Head, hidden: Tensor, *, temperature: float) -> Tensor:
    """log_softmax keeps only its output for the backward; logsumexp and gather keep the logits
    and two more chunks of gradient."""
    logits = head(hidden)
    if temperature != 1.0:
        logits = logits.float() / temperature
    return logits.log_softmax(-1, dtype=torch.float32)


def _map_chunks(
    fn: Callable[..., TokenScores], inputs: Sequence[Tensor], count: int
) -> list[TokenScores]:
    """``fn`` of each chunk of rows; the backward pass calls it again for all but the last."""
    scores: list[TokenScores] = []
    for index, chunk in enumerate(zip(*(x.tensor_split(count) for x in inputs), strict=True)):
        if torch.is_grad_enabled() and index < count - 1:
            scores.append(checkpoint(fn, *chunk, use_reentrant=False, preserve_rng_state=False))
        else:
            scores.append(fn(*chunk))
    return scores


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
