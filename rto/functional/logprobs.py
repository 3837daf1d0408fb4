"""Log-probability of given tokens, in fp32, without keeping the [N, V] logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
HEAD_CHUNK = {"cpu": 1024, "cuda": 4096}
"""Positions whose logits exist at a time. Each chunk adds its part to the head's gradient, on a GPU
in bf16: the error of 16 parts was twice that of one (0.0056 and 0.0029 of the gradient's size)."""


def head_chunk(device: torch.device) -> int:
    """Positions of a chunk, where the caller names no number."""
    return HEAD_CHUNK.get(device.type, HEAD_CHUNK["cpu"])


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
    chunk_size: int | None = None,
    num_chunks: int | None = None,
    with_entropy: bool = False,
    reference: tuple[Tensor, Head] | None = None,
) -> TokenScores:
    """Log-probs [N] of ``ids`` [N] under softmax(lm_head(hidden) / temperature), hidden [N, H].

    The logits exist for ``chunk_size`` positions at a time (``head_chunk``); where gradients are on
    they are computed again in the backward pass, all but the last chunk's: the backward pass begins
    there, and computing them again would need the memory that keeping them does. ``lm_head`` is
    called as a module, once per chunk and pass, so that ZeRO-3 hooks see it: ranks then agree on
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

    logits = functools.partial(_logits, temperature=temperature)

    def of_chunk(hidden: Tensor, ids: Tensor, *ref_hidden: Tensor) -> TokenScores:
        if reference is None:
            logprobs, entropy = _SelectedLogprobs.apply(logits(lm_head, hidden), ids, with_entropy)
            return TokenScores(logprobs, entropy, None)
        all_logprobs = _log_softmax(logits(lm_head, hidden))
        with torch.no_grad():
            expected = _log_softmax(logits(reference[1], *ref_hidden))
        kl = (expected.exp() * (expected - all_logprobs)).sum(-1)
        entropy = _entropy(all_logprobs) if with_entropy else None
        return TokenScores(_gather(all_logprobs, ids), entropy, kl)

    size = chunk_size or head_chunk(hidden.device)
    count = num_chunks or max(1, math.ceil(len(ids) / size))
    inputs = [hidden, ids] if reference is None else [hidden, ids, reference[0]]
    scores = _map_chunks(of_chunk, inputs, count)
    return TokenScores(
        logprobs=torch.cat([score.logprobs for score in scores]),
        entropy=_joined([score.entropy for score in scores]),
        reference_kl=_joined([score.reference_kl for score in scores]),
    )


class _SelectedLogprobs(torch.autograd.Function):
    """Log-softmax of logits [N, V] at ids [N], fp32, and its entropy where that is asked for.

    With p the softmax, H the entropy, and g and h the gradients of the two results, the logits'
    gradient is g (onehot - p) - h p (log p + H). It is written over the one fp32 [N, V] that the
    forward pass keeps; autograd would hold that, a gradient of it and one of the gather.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, ids: Tensor, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        all_logprobs = _log_softmax(logits)
        entropy = _entropy(all_logprobs) if with_entropy else None
        ctx.save_for_backward(all_logprobs, ids, entropy)
        ctx.dtype = logits.dtype
        return _gather(all_logprobs, ids), entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        all_logprobs, ids, entropy = ctx.saved_tensors
        grad, entropy_grad = grad_outputs[0].unsqueeze(-1), grad_outputs[1]
        if entropy is None:
            result = all_logprobs.exp_().mul_(-grad)
        else:
            weight = entropy.unsqueeze(-1).add(all_logprobs).mul_(entropy_grad.unsqueeze(-1))
            result = all_logprobs.exp_().mul_(weight.add_(grad).neg_())
        result.scatter_add_(-1, ids.unsqueeze(-1), grad)
        return result.to(ctx.dtype), None, None


def _logits(head: Head, hidden: Tensor, *, temperature: float) -> Tensor:
    logits = head(hidden)
    return logits if temperature == 1.0 else logits.float() / temperature


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1, dtype=torch.float32)


def _gather(all_logprobs: Tensor, ids: Tensor) -> Tensor:
    return all_logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _entropy(all_logprobs: Tensor) -> Tensor:
    return -(all_logprobs.exp() * all_logprobs).sum(-1)


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
