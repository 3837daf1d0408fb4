"""The definitions that log-probs in chunks and in packed rows are compared with."""

from __future__ import annotations

import torch
from token_rows import token_batch
from torch import Tensor
from transformers import PreTrainedModel

from rto.types import TokenBatch

PROMPTS = [[1, 10, 11, 12, 13], [1, 20], [1, 30, 31]]
RESPONSES = [[14, 2], [21, 22, 23, 24, 2], [32, 33, 34]]


def selected_logprobs_naive(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-softmax of logits [..., V] at ids [...]: the definition, with everything in memory."""
    return logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def batch(prompts: list[list[int]] = PROMPTS, responses: list[list[int]] = RESPONSES) -> TokenBatch:
    return token_batch(prompts, responses)


def naive_all(model: PreTrainedModel, tokens: TokenBatch, temperature: float = 1.0) -> Tensor:
    """Log-probs of the whole vocabulary at each response token [B, T, V].

    Full logits of the left-padded batch with attention mask and position ids.
    """
    ids = torch.cat([tokens.prompt_ids, tokens.response_ids], 1)
    mask = torch.cat([tokens.prompt_mask, tokens.response_mask], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits
    return (logits.float() / temperature).log_softmax(-1)[:, tokens.prompt_ids.shape[1] - 1 : -1]


def naive(model: PreTrainedModel, tokens: TokenBatch, temperature: float = 1.0) -> Tensor:
    taken = naive_all(model, tokens, temperature).gather(-1, tokens.response_ids[..., None])
    return taken.squeeze(-1).masked_fill(~tokens.response_mask, 0.0)
