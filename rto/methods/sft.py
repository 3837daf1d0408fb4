"""Supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from rto.functional.losses import sft_loss
from rto.methods.base import PlainMethod
from rto.methods.settings.sft import SFTSettings
from rto.types import LossNorm, LossOutput, PolicyOutput, ScoredBatch, TrainBatch


@dataclass(frozen=True, kw_only=True)
class SFT(SFTSettings, PlainMethod):
    """Maximum likelihood of the response tokens."""

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        return TrainBatch(batch.tokens), {}

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return sft_loss(logprobs=output.logprobs, mask=batch.tokens.response_mask, norm=norm)
