"""A decoder-only language model as a policy."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from rto.models.packing import Shared, pack, pack_shared, shared_spans
from rto.models.policy import Policy, States, unwrapped
from rto.types import TokenBatch

if TYPE_CHECKING:
    from peft import PeftModel


class CausalPolicy(Policy):
    """Prompt and response are one sequence; a prompt's value is read at its last token, the state
    before the first response token.

    Neighbouring rows of one group are one row, their prompt's tokens once, where the model can do
    that and it pays.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, *, value_head: bool = False) -> None:
        super().__init__(model, value_head=value_head)
        base = unwrapped(model)
        width = sharing_width(base.config, base.config._attn_implementation)
        self.sharing_width = width if width is not None and _shares_prompts(base) else None

    def states(self, tokens: TokenBatch) -> States:
        width = self.sharing_width
        spans = [] if width is None else shared_spans(tokens, width=width)
        base: Any = unwrapped(self.model).base_model
        end = tokens.prompt_mask.sum(-1) - 1
        if len(spans) in (0, len(tokens)):
            packed = pack(tokens)
            hidden = base(input_ids=packed.ids, use_cache=False).last_hidden_state
            rows = torch.arange(len(tokens), device=hidden.device)
            return States(before=hidden[packed.rows, packed.before], prompt=hidden[rows, end])
        shared = pack_shared(tokens, spans)
        hidden = _run_shared(base, shared)
        return States(before=hidden[shared.rows, shared.before], prompt=hidden[shared.owner, end])


def sharing_width(config: PreTrainedConfig, attn_implementation: str | None) -> int | None:
    """The hidden size, if every layer attends as a mask says; None where one may not (windows,
    recurrent layers, attention without masks)."""
    text = config.get_text_config()
    fields = text.to_dict()
    kinds = set(fields.get("layer_types") or ["full_attention"])
    window = fields.get("sliding_window") if fields.get("use_sliding_window", True) else None
    full = kinds == {"full_attention"} and window is None
    return text.hidden_size if full and attn_implementation == "sdpa" else None


@torch.no_grad()
def _shares_prompts(model: PreTrainedModel) -> bool:
    """Whether two responses behind one prompt get the states that each gets alone.

    Position embeddings that are counted from the row's start, or layers that look past the mask,
    give others: the model's own forward decides.
    """
    base: Any = model.base_model
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return False
    group = _two_responses(model.device)
    alone, shared = pack(group), pack_shared(group, [range(2)])
    expected = base(input_ids=alone.ids, use_cache=False).last_hidden_state
    found = _run_shared(base, shared)
    expected = expected[alone.rows, alone.before]
    gap = (found[shared.rows, shared.before] - expected).abs().max()
    tolerance = 1e-4 if expected.dtype == torch.float32 else 0.05
    return bool(gap <= tolerance * expected.abs().max())


def _run_shared(base: Any, shared: Shared) -> Tensor:
    """Last hidden states [G, L, H]."""
    return base(
        input_ids=shared.ids,
        attention_mask=shared.mask,
        position_ids=shared.positions,
        use_cache=False,
    ).last_hidden_state


def _two_responses(device: torch.device) -> TokenBatch:
    def row(*ids: int) -> Tensor:
        return torch.tensor(ids, device=device)

    responses = torch.stack([row(2, 3, 4), row(5, 6, 7)])
    everywhere = torch.ones(2, 3, dtype=torch.bool, device=device)
    return TokenBatch(
        prompt_ids=row(0, 1).expand(2, 2),
        prompt_mask=everywhere[:, :2],
        response_ids=responses,
        response_mask=everywhere,
        sampler_logprobs=torch.zeros(2, 3, device=device),
        finished=torch.ones(2, dtype=torch.bool, device=device),
        group=torch.zeros(2, dtype=torch.long, device=device),
    )
