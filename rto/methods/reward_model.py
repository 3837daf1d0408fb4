"""The pairwise reward model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from rto.functional.losses import pairwise_loss
from rto.functional.preference import check_pairs, split_pairs
from rto.types import LossNorm, LossOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class RewardModel:
    """Bradley-Terry likelihood of the preferences; rows 2i chosen, 2i + 1 rejected."""

    @property
    def name(self) -> str:
        return "reward"

    @property
    def title(self) -> str:
        return "Bradley-Terry reward model"

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset()

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        check_pairs(batch.tokens.group)
        return TrainBatch(batch.tokens), {}

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        return self

    def score_loss(self, scores: Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        check_pairs(batch.tokens.group)
        chosen, rejected = split_pairs(scores)
        return pairwise_loss(chosen=chosen, rejected=rejected, num_pairs=norm.sequences / 2)
