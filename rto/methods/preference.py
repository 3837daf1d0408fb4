"""Methods that train a policy on pairs. Each is one loss of ``rto.functional.preference``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rto.functional import preference
from rto.functional.masked import zero_masked
from rto.methods.base import PlainMethod
from rto.methods.narrow import expect
from rto.protocols import Card, Output
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, ScoredBatch, TrainBatch


@dataclass(frozen=True)
class PreferenceBatch(TrainBatch):
    """Rows 2i chosen, 2i + 1 rejected, with the reference's log-probs [B, T]."""

    ref_logprobs: Tensor


@dataclass(frozen=True, kw_only=True)
class Pairwise(PlainMethod):
    """A method whose batch holds the chosen response in row 2i, the rejected one in 2i + 1."""

    nll_coef: float = 0.0
    """Weight of the chosen responses' negative log-likelihood per token."""

    @property
    def whole_groups(self) -> bool:
        return True

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        preference.check_pairs(batch.tokens.group)
        return TrainBatch(batch.tokens), {}


@dataclass(frozen=True, kw_only=True)
class Referenced(Pairwise):
    """A pairwise method that compares the policy with its reference."""

    beta: float = 0.1

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset({Role.REFERENCE})

    def targets(self, batch: ScoredBatch) -> tuple[PreferenceBatch, dict[str, float]]:
        preference.check_pairs(batch.tokens.group)
        reference = zero_masked(batch[Role.REFERENCE], batch.tokens.response_mask)
        return PreferenceBatch(tokens=batch.tokens, ref_logprobs=reference), {}


@dataclass(frozen=True, kw_only=True)
class DPO(Referenced):
    """Direct Preference Optimization, with cDPO's label smoothing."""

    label_smoothing: float = 0.0

    @property
    def card(self) -> Card:
        return _card("dpo", "Direct Preference Optimization", "2305.18290")

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
class IPO(Referenced):
    """Identity Preference Optimization; ``reduction`` of the log-ratios over tokens."""

    reduction: preference.Reduction = "mean"
    """"mean" is TRL's IPO, "sum" OpenRLHF's and the paper's formula."""

    @property
    def card(self) -> Card:
        title = "Identity Preference Optimization"
        if self.reduction == "sum":
            return _card("ipo_sum", f"{title}, log-ratios summed", "2310.12036")
        return _card("ipo", f"{title}, log-ratios per token", "2310.12036")

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
class RDPO(Referenced):
    """Length-regularised DPO."""

    alpha: float = 0.001
    """Price of a token in the reward."""

    @property
    def card(self) -> Card:
        return _card("rdpo", "Length-regularised Direct Preference Optimization", "2403.19159")

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
    """Token-level DPO, with the authors' default alpha; the RTO paper has 0.2.

    The version is part of the name: the command that the authors give for TDPO2 trains TDPO1.
    """

    version: Literal[1, 2] = 2
    alpha: float = 0.5
    """Weight of the KL in version 2; in version 1 it is 1."""

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise ValueError(f"TDPO version is {self.version}: expected 1 or 2")

    @property
    def card(self) -> Card:
        title = f"Token-level Direct Preference Optimization {self.version}"
        return _card(f"tdpo{self.version}", title, "2404.11999")

    @property
    def outputs(self) -> frozenset[Output]:
        return frozenset({"reference_kl"})

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
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
            alpha=1.0 if self.version == 1 else self.alpha,
            detach_chosen=self.version == 2,
            nll_coef=self.nll_coef,
        )


@dataclass(frozen=True, kw_only=True)
class SimPO(Pairwise):
    """Simple Preference Optimization: no reference, rewards per token, a margin.

    The margin is ``gamma``, or ``gamma_beta_ratio`` times beta (the authors' own knob); with
    neither it is half of beta, where the authors advise to start.
    """

    beta: float = 2.0
    gamma: float | None = None
    gamma_beta_ratio: float | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.gamma is not None and self.gamma_beta_ratio is not None:
            raise ValueError(
                f"SimPO has gamma {self.gamma} and gamma_beta_ratio {self.gamma_beta_ratio}: "
                "give one of them"
            )

    @property
    def card(self) -> Card:
        return _card("simpo", "Simple Preference Optimization", "2405.14734")

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


def _card(name: str, title: str, arxiv: str) -> Card:
    return Card(name, title, f"arXiv {arxiv}", feedback="pairs", modes=("offline",))
