"""Run a decoder on a batch: without padding if the model allows it, else padded on the right.

Packed tokens go through all layers as one row; only the attention takes them apart again. So no
layer spends time on padding, and rows of one group read their common prompt once.
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rto.errors import UserError
from rto.models.packing import Packed, PackedRows, pack, pad_right
from rto.models.policy import unwrapped
from rto.models.sequence import Picked, SequenceRanks
from rto.types import TokenBatch

if TYPE_CHECKING:
    from peft import PeftModel

ATTENTION = "rto_packed"
FIRST = torch.tensor([True, True, False, False, False])
"""Of a response, what ``prove_rows_alone`` leaves."""


@dataclass(frozen=True)
class Read:
    """Last hidden states [N, H] of all tokens end to end, or of this rank's part of them, and where
    ``packed`` finds them."""

    hidden: Tensor
    packed: Packed

    @property
    def before(self) -> Picked:
        """What predicts each response token [R, H]."""
        return self._picked(self.packed.before)

    @property
    def prompt(self) -> Picked:
        """The states before the first response token [B, H]."""
        return self._picked(self.packed.prompt)

    @property
    def last(self) -> Picked:
        """The states after the last token [B, H]."""
        return self._picked(self.packed.last)

    def _picked(self, index: Tensor) -> Picked:
        rows = self.packed.rows
        if rows is None or rows.shard is None:
            return Picked(self.hidden[index])
        return rows.shard.pick(self.hidden, index)


class Decoder:
    """A decoder-only model below its head. ``packs``: whether it reads batches without padding."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        inner = unwrapped(model)
        self._base: nn.Module = inner.base_model
        self._name, self._ranks = inner.name_or_path, None
        self._group = _two_responses(inner)
        prove_rows_alone(inner, self._group)
        self.packs = may_pack(inner) and _packs(inner, self._group)

    def share(self, ranks: SequenceRanks) -> None:
        """Read the same rows as these ranks from now on, and hold a part of their tokens.

        Raises:
            UserError: the model does not allow it: it does not pack, its heads do not divide, or
                the states of a shared row are not those of the row read alone.
        """
        said = f"{self._name}: ds.sequence_parallel_size is {ranks.size}"
        if not self.packs:
            raise UserError(
                f"{said} and this model does not read rows end to end (it takes full attention in "
                "every layer and ds.attn_implementation sdpa): leave ds.sequence_parallel_size at 1"
            )
        training = self._base.training
        self._base.eval()
        with torch.no_grad():
            expected = _read(self._base, pack(self._group)).before.states
            shared = _read(self._base, ranks.shard(pack(self._group))).before
            found = shared.whole(shared.states)
        self._base.train(training)
        if not _close(found, expected, 1e-4 if expected.dtype == torch.float32 else 0.05):
            raise UserError(
                f"{said} and the states of a row are others where ranks share it: leave "
                "ds.sequence_parallel_size at 1"
            )
        self._ranks = ranks

    def __call__(self, tokens: TokenBatch) -> Read:
        packed = pack(tokens) if self.packs else pad_right(tokens)
        return _read(self._base, packed if self._ranks is None else self._ranks.shard(packed))


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
def prove_rows_alone(model: PreTrainedModel, group: TokenBatch) -> None:
    """A row's states must be its own: the same in training mode with nothing after or beside it.

    They are not where a model reads ahead (BERT), normalises over the batch, drops tokens of a
    full expert, or draws at random in training. Other attentions than SDPA and transformers' own
    may need a device that the model is not on.

    Raises:
        UserError: they are not.
    """
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return
    base: nn.Module = model.base_model
    training = model.training
    expected = _read(base.eval(), pad_right(group)).before.states
    short = dataclasses.replace(group, response_mask=group.response_mask & FIRST.to(model.device))
    found = _read(base.train(), pad_right(short.take([0]).trim())).before.states
    model.train(training)
    # Routers of experts may decide a near tie otherwise in bf16: that is no dependence.
    tolerance = 1e-3 if expected.dtype == torch.float32 else 0.25
    if not _close(found, expected[: len(found)], tolerance):
        raise UserError(
            f"{model.name_or_path}: model type {model.config.model_type} is not supported: the "
            "states of a row depend on what follows it, on the rows beside it, or on chance"
        )


@torch.no_grad()
def _packs(model: PreTrainedModel, group: TokenBatch) -> bool:
    """Put our attention in place, if two responses behind one prompt get the states that each gets
    alone: the model's own forward decides. If not, the model is left as it was."""
    base: nn.Module = model.base_model
    training = model.training
    model.eval()
    expected = _read(base, pad_right(group)).before.states
    model.set_attn_implementation(ATTENTION)
    found = _read(base, pack(group)).before.states
    agree = _close(found, expected, 1e-4 if expected.dtype == torch.float32 else 0.05)
    if not agree:
        model.set_attn_implementation("sdpa")
    model.train(training)
    return agree


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def _read(base: nn.Module, packed: Packed) -> Read:
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
    packed_rows: PackedRows | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA of each row: query, key, value [1, heads, N, D] -> [1, N, heads, D].

    A row's prompt is attended to anew for each of the responses that share it. Without rows, this
    is SDPA as transformers has it.
    """
    if packed_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    shard = packed_rows.shard
    if shard is not None:
        module, query, key, value = shard.to_heads(module, query, key, value)
    outputs: list[Tensor] = []
    for bucket in packed_rows.buckets:
        q, k, v = (_gathered(x, bucket) for x in (query, key, value))
        output, _ = sdpa_attention_forward(module, q, k, v, None, **options)
        outputs.append(output.flatten(0, 1))
    together = torch.cat(outputs)
    if packed_rows.back is not None:
        together = together.index_select(0, packed_rows.back)
    return together[None] if shard is None else shard.to_tokens(together[None]), None


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _gathered(x: Tensor, bucket: Tensor) -> Tensor:
    """[1, heads, N, D] -> [b, heads, L, D]."""
    rows = x[0].transpose(0, 1).index_select(0, bucket.flatten())
    return rows.unflatten(0, bucket.shape).transpose(1, 2)


def _two_responses(model: PreTrainedModel) -> TokenBatch:
    """Responses of 3 and of 5 tokens to one prompt."""
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, Tensor)
    vocab_size, device = len(embeddings), model.device

    def row(*ids: int) -> Tensor:
        return torch.tensor(ids, device=device) % vocab_size

    everywhere = torch.ones(2, 5, dtype=torch.bool, device=device)
    return TokenBatch(
        prompt_ids=row(0, 1).expand(2, 2),
        prompt_mask=everywhere[:, :2],
        response_ids=torch.stack([row(2, 3, 4, 0, 0), row(5, 6, 7, 8, 9)]),
        response_mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], device=device).bool(),
        sampler_logprobs=torch.zeros(2, 5, device=device),
        finished=torch.ones(2, dtype=torch.bool, device=device),
        group=torch.zeros(2, dtype=torch.long, device=device),
    )
