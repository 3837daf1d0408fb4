"""The definition that chunked log-probs are compared with."""

from __future__ import annotations

from torch import Tensor


def selected_logprobs_naive(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-softmax of logits [..., V] at ids [...]: the definition, with everything in memory."""
    return logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
