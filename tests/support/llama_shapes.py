"""Shapes of known models, written out, and settings of what trains them."""

from __future__ import annotations

from typing import Literal

from rto.planning.shape import ModelShape
from rto.planning.states import TrainedModel
from rto.sections.runtime import DeepSpeed, Lora

GIB = 1024**3
Stage = Literal[0, 1, 2, 3]

LLAMA_8B = ModelShape(
    params=8_030_261_248, layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128,
    intermediate=14336, vocab=128256, embedding_params=525_336_576, tied=False,
    largest=525_336_576, page_locked=9_000_000_000, linear=6_979_321_856,
)  # fmt: skip
LLAMA_1B = ModelShape(
    params=1_235_816_448, layers=16, hidden=2048, heads=32, kv_heads=8, head_dim=64,
    intermediate=8192, vocab=128256, embedding_params=262_668_288, tied=False,
    largest=262_668_288, page_locked=1_400_000_000, linear=973_080_576, head=False,
)  # fmt: skip


def whole(shape: ModelShape, ranks: int, *, checkpointing: bool = True) -> TrainedModel:
    """All of its weights in training."""
    return TrainedModel(shape, shape.params, shape.largest, ranks, checkpointing=checkpointing)


def zero(
    stage: Stage, dtype: Literal["bf16", "fp32"] = "bf16", *, offload: bool = False, lora: int = 0
) -> DeepSpeed:
    return DeepSpeed(
        zero_stage=stage, param_dtype=dtype, adam_offload=offload, lora=Lora(rank=lora)
    )
