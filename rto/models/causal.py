"""A decoder-only language model as a policy."""

from __future__ import annotations

import torch

from rto.models.packing import pack
from rto.models.policy import Policy, States, unwrapped
from rto.types import TokenBatch


class CausalPolicy(Policy):
    """Prompt and response are one sequence; a prompt's value is read at its last token, the state
    before the first response token."""

    def states(self, tokens: TokenBatch) -> States:
        packed = pack(tokens)
        base = unwrapped(self.model).base_model
        hidden = base(input_ids=packed.ids, use_cache=False).last_hidden_state
        rows = torch.arange(len(tokens), device=hidden.device)
        end = tokens.prompt_mask.sum(-1) - 1
        return States(before=hidden[packed.rows, packed.before], prompt=hidden[rows, end])
