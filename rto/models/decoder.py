"""How a decoder reads a batch: without padding where it can, else with padding on the right.

Packed tokens go through all layers as one row; only the attention takes them apart again. So no
layer spends time on padding, and rows of one group read their common prompt once.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rto.models.packing import Packed, Rows, pack, pad_right
from rto.models.policy import unwrapped
from rto.types import TokenBatch

if TYPE_CHECKING:
    from peft import PeftModel

ATTENTION = "rto_packed"


@dataclass(frozen=True)
class Read:
    """Last hidden states [N, H] of all tokens end to end, and where ``packed`` finds them."""

    hidden: Tensor
    packed: Packed

    @property
    def before(self) -> Tensor:
        """What predicts each response token [R, H]."""
        return self.hidden[self.packed.before]

    @property
    def prompt(self) -> Tensor:
        """The states before the first response token [B, H]."""
        return self.hidden[self.packed.prompt]

    @property
    def last(self) -> Tensor:
        """The states after the last token [B, H]."""
        return self.hidden[self.packed.last]


class Decoder:
    """A decoder-only model below its head. ``packs``: whether it reads batches without padding."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        inner = unwrapped(model)
        self._base: Any = inner.base_model
        self.packs = may_pack(inner) and _packs(inner)

    def __call__(self, tokens: TokenBatch) -> Read:
        return _read(self._base, pack(tokens) if self.packs else pad_right(tokens))


def may_pack(model: PreTrainedModel) -> bool:
    """Whether every layer attends to all that came before, through an attention that can be put in
    place of SDPA: no windows, no recurrent layers, no position embeddings of its own counting."""
    text = model.config.get_text_config()
    fields = text.to_dict()
    kinds = set(fields.get("layer_types") or ["full_attention"])
    window = fields.get("sliding_window") if fields.get("use_sliding_window", True) else None
    arguments = inspect.signature(model.base_model.forward).parameters
    return (
        kinds == {"full_attention"}
        and window is None
        and model.config._attn_implementation == "sdpa"
        and "position_ids" in arguments
        and any(kind.kind is kind.VAR_KEYWORD for kind in arguments.values())
    )


@torch.no_grad()
def _packs(model: PreTrainedModel) -> bool:
    """Put our attention in place, if two responses behind one prompt get the states that each gets
    alone: the model's own forward decides. If not, the model is left as it was."""
    base: Any = model.base_model
    embeddings: Any = model.get_input_embeddings()
    group = _two_responses(len(embeddings.weight), model.device)
    training = model.training
    model.eval()
    expected = _read(base, pad_right(group)).before
    model.set_attn_implementation(ATTENTION)
    found = _read(base, pack(group)).before
    tolerance = 1e-4 if expected.dtype == torch.float32 else 0.05
    agree = bool((found - expected).abs().max() <= tolerance * expected.abs().max())
    if not agree:
        model.set_attn_implementation("sdpa")
    model.train(training)
    return agree


def _read(base: Any, packed: Packed) -> Read:
    extra = {}
    if packed.rows is not None:
        # Models make no mask of their own where they are given one with four axes.
        no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=packed.ids.device)
        rows = {"packed_rows": packed.rows, "attention_mask": no_mask}
        extra = {"position_ids": packed.positions, **rows}
    hidden = base(input_ids=packed.ids, use_cache=False, **extra).last_hidden_state
    return Read(hidden.flatten(0, 1), packed)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_rows: Rows | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA of each row: query, key, value [1, heads, N, D] -> [1, N, heads, D].

    A row's prompt is attended to anew for each of the responses that share it. Without rows, this
    is SDPA as transformers has it.
    """
    if packed_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    outputs: list[Tensor] = []
    for bucket in packed_rows.buckets:
        q, k, v = (_gathered(x, bucket) for x in (query, key, value))
        output, _ = sdpa_attention_forward(module, q, k, v, None, **options)
        outputs.append(output.flatten(0, 1))
    together = torch.cat(outputs)
    if packed_rows.back is not None:
        together = together.index_select(0, packed_rows.back)
    return together[None], None


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _gathered(x: Tensor, bucket: Tensor) -> Tensor:
    """[1, heads, N, D] -> [b, heads, L, D]."""
    rows = x[0].transpose(0, 1).index_select(0, bucket.flatten())
    return rows.unflatten(0, bucket.shape).transpose(1, 2)


def _two_responses(vocab_size: int, device: torch.device) -> TokenBatch:
    def row(*ids: int) -> Tensor:
        return torch.tensor(ids, device=device) % vocab_size

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
