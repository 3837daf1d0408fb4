"""Methods that train a policy on pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rto.functional.masked import zero_masked
from rto.functional.preference import check_pairs, dpo_loss
from rto.methods.base import PlainMethod
from rto.methods.narrow import expect
from rto.protocols import Card
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class PreferenceBatch(TrainBatch):
    """Rows 2i chosen, 2i + 1 rejected, with the reference's log-probs [B, T]."""

    ref_logprobs: Tensor


@dataclass(frozen=True, kw_only=True)
class DPO(PlainMethod):
    """Direct Preference Optimization, with cDPO's label smoothing and an optional SFT term."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    nll_coef: float = 0.0
    """Weight of the chosen responses' negative log-likelihood per token."""

    @property
    def card(self) -> Card:
        return Card(
            name="dpo",
            title="Direct Preference Optimization",
            paper="arXiv 2305.18290",
            feedback="pairs",
            modes=("offline",),
        )

    @property
    def whole_groups(self) -> bool:
        return True

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset({Role.REFERENCE})

    def targets(self, batch: ScoredBatch) -> tuple[PreferenceBatch, dict[str, float]]:
        check_pairs(batch.tokens.group)
        reference = zero_masked(batch[Role.REFERENCE], batch.tokens.response_mask)
        return PreferenceBatch(tokens=batch.tokens, ref_logprobs=reference), {}

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = expect(batch, PreferenceBatch)
        check_pairs(batch.tokens.group)
        return dpo_loss(
            logprobs=output.logprobs,
            ref_logprobs=batch.ref_logprobs,
            mask=batch.tokens.response_mask,
            norm=norm,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            nll_coef=self.nll_coef,
        )
