"""Methods that train a policy on pairs. Each is one loss of ``rto.functional.preference``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from rto.functional import preference
from rto.functional.masked import zero_masked
from rto.methods.base import PlainMethod
from rto.methods.expect import expect
from rto.methods.settings.preference import (
    DPOSettings,
    IPOSettings,
    PairSettings,
    RDPOSettings,
    ReferencedSettings,
    SimPOSettings,
    TDPO1Settings,
    TDPO2Settings,
)
from rto.protocols import Output
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class PreferenceBatch(TrainBatch):
    """Rows 2i chosen, 2i + 1 rejected, with the reference's log-probs [B, T]."""

    ref_logprobs: Tensor


@dataclass(frozen=True, kw_only=True)
class Pairwise(PairSettings, PlainMethod):
    """A method whose batch holds the chosen response in row 2i, the rejected one in 2i + 1."""

    @property
    def whole_groups(self) -> bool:
        return True

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        preference.check_pairs(batch.tokens.group)
        return TrainBatch(batch.tokens), {}


@dataclass(frozen=True, kw_only=True)
class Referenced(ReferencedSettings, Pairwise):
    """A pairwise method that compares the policy with its reference."""

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset({Role.REFERENCE})

    def targets(self, batch: ScoredBatch) -> tuple[PreferenceBatch, dict[str, float]]:
        preference.check_pairs(batch.tokens.group)
        reference = zero_masked(batch[Role.REFERENCE], batch.tokens.response_mask)
        return PreferenceBatch(tokens=batch.tokens, ref_logprobs=reference), {}


@dataclass(frozen=True, kw_only=True)
class DPO(DPOSettings, Referenced):
    """Direct Preference Optimization, with cDPO's label smoothing."""

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = _pairs(batch)
        return preference.dpo_loss(
            logprobs=output.logprobs,
            ref_logprobs=batch.ref_logprobs,
            mask=batch.tokens.response_mask,
            norm=norm,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            nll_coef=self.nll_coef,
        )


@dataclass(frozen=True, kw_only=True)
class IPO(IPOSettings, Referenced):
    """Identity Preference Optimization; ``reduction`` of the log-ratios over tokens."""

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = _pairs(batch)
        return preference.ipo_loss(
            logprobs=output.logprobs,
            ref_logprobs=batch.ref_logprobs,
            mask=batch.tokens.response_mask,
            norm=norm,
            beta=self.beta,
            reduction=self.reduction,
            nll_coef=self.nll_coef,
        )


@dataclass(frozen=True, kw_only=True)
class RDPO(RDPOSettings, Referenced):
    """Length-regularised DPO."""

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        batch = _pairs(batch)
        return preference.rdpo_loss(
            logprobs=output.logprobs,
            ref_logprobs=batch.ref_logprobs,
            mask=batch.tokens.response_mask,
            norm=norm,
            beta=self.beta,
            alpha=self.alpha,
            nll_coef=self.nll_coef,
        )


@dataclass(frozen=True, kw_only=True)
class TDPO(Referenced):
    """Token-level DPO. The version is part of the name: the command that the authors give for
    TDPO2 trains TDPO1.
    """

    @property
    def outputs(self) -> frozenset[Output]:
        return frozenset({"reference_kl"})

    def _loss(
        self,
        output: PolicyOutput,
        batch: TrainBatch,
        norm: LossNorm,
        *,
        alpha: float,
        detach_chosen: bool,
    ) -> LossOutput:
        batch = _pairs(batch)
        if output.reference_kl is None:
            raise ValueError("TDPO reads reference_kl and the policy output has none")
        return preference.tdpo_loss(
            logprobs=output.logprobs,
            ref_logprobs=batch.ref_logprobs,
            reference_kl=output.reference_kl,
            mask=batch.tokens.response_mask,
            norm=norm,
            beta=self.beta,
            alpha=alpha,
            detach_chosen=detach_chosen,
            nll_coef=self.nll_coef,
        )


@dataclass(frozen=True, kw_only=True)
class TDPO1(TDPO1Settings, TDPO):
    """The first version: the difference of the responses' KLs counts whole."""

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return self._loss(output, batch, norm, alpha=1.0, detach_chosen=False)


@dataclass(frozen=True, kw_only=True)
class TDPO2(TDPO2Settings, TDPO):
    """The second version: the KLs have the weight ``alpha``, and the chosen response's has no
    gradient."""

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return self._loss(output, batch, norm, alpha=self.alpha, detach_chosen=True)


@dataclass(frozen=True, kw_only=True)
class SimPO(SimPOSettings, Pairwise):
    """Simple Preference Optimization: no reference, rewards per token, a margin.

    The margin is ``gamma``, or ``gamma_beta_ratio`` times beta (the authors' own knob); with
    neither it is half of beta, where the authors advise to start.
    """

    @property
    def margin(self) -> float:
        if self.gamma is not None:
            return self.gamma
        return self.beta * (0.5 if self.gamma_beta_ratio is None else self.gamma_beta_ratio)

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        preference.check_pairs(batch.tokens.group)
        return preference.simpo_loss(
            logprobs=output.logprobs,
            mask=batch.tokens.response_mask,
            norm=norm,
            beta=self.beta,
            gamma=self.margin,
            label_smoothing=self.label_smoothing,
            nll_coef=self.nll_coef,
        )


def _pairs(batch: TrainBatch) -> PreferenceBatch:
    batch = expect(batch, PreferenceBatch)
    preference.check_pairs(batch.tokens.group)
    return batch


LOSSES: Mapping[type[PairSettings], type[DPO | IPO | RDPO | TDPO1 | TDPO2 | SimPO]] = (
    MappingProxyType(
        {
            DPOSettings: DPO,
            IPOSettings: IPO,
            RDPOSettings: RDPO,
            TDPO1Settings: TDPO1,
            TDPO2Settings: TDPO2,
            SimPOSettings: SimPO,
        }
    )
)
"""The settings of a pairwise method -> the method."""
