"""The pairwise reward model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rto.card import Card
from rto.functional.losses import pairwise_loss
from rto.functional.preference import check_pairs, split_pairs
from rto.methods.base import PlainMethod
from rto.sections.methods import REWARD_CARD
from rto.types import LossNorm, LossOutput, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class RewardModel(PlainMethod):
    """Bradley-Terry likelihood of the preferences; rows 2i chosen, 2i + 1 rejected."""

    @property
    def card(self) -> Card:
        return REWARD_CARD

    @property
    def whole_groups(self) -> bool:
        return True

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        check_pairs(batch.tokens.group)
        return TrainBatch(batch.tokens), {}

    def score_loss(self, scores: Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        check_pairs(batch.tokens.group)
        chosen, rejected = split_pairs(scores)
        return pairwise_loss(chosen=chosen, rejected=rejected, num_pairs=norm.groups)
