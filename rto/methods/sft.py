"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from rto.functional.losses import sft_loss
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class SFT:
    """Maximum likelihood of the response tokens."""

    @property
    def name(self) -> str:
        return "sft"

    @property
    def title(self) -> str:
        return "Supervised fine-tuning"

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset()

    @property
    def needs_entropy(self) -> bool:
        return False

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        return TrainBatch(batch.tokens), {}

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        return self

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return sft_loss(logprobs=output.logprobs, mask=batch.tokens.response_mask, norm=norm)
