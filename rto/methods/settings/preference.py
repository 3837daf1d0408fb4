"""The settings of the methods that learn from pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from rto.card import Card
from rto.sections.methods import MethodSettings
from rto.sections.ranges import FIXED, NotNegative, Positive, Range, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.protocols import PolicyMethod
    from rto.sections.run_config import RunConfig


def _pairs(name: str, title: str, arxiv: str) -> Card:
    return Card(name, title, f"arXiv {arxiv}", feedback="pairs", modes=("offline",))


Smoothing = Annotated[float, Range(least=0, below=0.5)]


@dataclass(frozen=True, kw_only=True)
class PairSettings(MethodSettings):
    """What the methods that learn from pairs have in common."""

    nll_coef: NotNegative = 0.0
    """Weight of an SFT term on the chosen response: its negative log-likelihood per token."""

    uses: ClassVar[frozenset[str]] = frozenset({"ref"})
    spellings: ClassVar[Mapping[str, str]] = {
        "preference.nll_loss_coef": "nll_coef",
        "preference.beta": "beta",
    }

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rto.methods.preference import LOSSES

        return self.into(LOSSES[type(self)])


@dataclass(frozen=True, kw_only=True)
class ReferencedSettings(PairSettings):
    """A pairwise method that compares the policy with its reference."""

    beta: Positive = 0.1
    """Inverse temperature."""


@dataclass(frozen=True, kw_only=True)
class DPOSettings(ReferencedSettings):
    """Direct Preference Optimization (arXiv 2305.18290)."""

    card: Card = _pairs("dpo", "Direct Preference Optimization", "2305.18290")
    label_smoothing: Smoothing = 0.0
    """Above 0, DPO is conservative DPO: the share of pairs whose label is taken to be wrong."""

    spellings: ClassVar[Mapping[str, str]] = {
        **ReferencedSettings.spellings,
        "preference.label_smoothing": "label_smoothing",
    }


@dataclass(frozen=True, kw_only=True)
class IPOSettings(ReferencedSettings):
    """Identity Preference Optimization (arXiv 2310.12036)."""

    card: Card = _pairs(
        "ipo", "Identity Preference Optimization, log-ratios per token", "2310.12036"
    )
    reduction: Literal["mean", "sum"] = field(default="mean", metadata=FIXED)
    """Of the log-ratios over tokens: "mean" is TRL's IPO, "sum" OpenRLHF's and the paper's."""


IPO_SUM = IPOSettings(
    card=_pairs("ipo_sum", "Identity Preference Optimization, log-ratios summed", "2310.12036"),
    reduction="sum",
)


@dataclass(frozen=True, kw_only=True)
class RDPOSettings(ReferencedSettings):
    """Length-regularised DPO (arXiv 2403.19159)."""

    card: Card = _pairs("rdpo", "Length-regularised Direct Preference Optimization", "2403.19159")
    alpha: NotNegative = 0.001
    """Price of a token in the reward."""

    spellings: ClassVar[Mapping[str, str]] = {
        **ReferencedSettings.spellings,
        "preference.alpha": "alpha",
    }


@dataclass(frozen=True, kw_only=True)
class TDPO1Settings(ReferencedSettings):
    """Token-level DPO, first version (arXiv 2404.11999)."""

    card: Card = _pairs("tdpo1", "Token-level Direct Preference Optimization 1", "2404.11999")


@dataclass(frozen=True, kw_only=True)
class TDPO2Settings(ReferencedSettings):
    """Token-level DPO, second version (arXiv 2404.11999)."""

    card: Card = _pairs("tdpo2", "Token-level Direct Preference Optimization 2", "2404.11999")
    alpha: NotNegative = 0.5
    """Weight of the KL: the authors' default; the RTO paper has 0.2."""

    spellings: ClassVar[Mapping[str, str]] = RDPOSettings.spellings


@dataclass(frozen=True, kw_only=True)
class SimPOSettings(PairSettings):
    """Simple Preference Optimization (arXiv 2405.14734)."""

    card: Card = _pairs("simpo", "Simple Preference Optimization", "2405.14734")
    beta: Positive = 2.0
    """Factor of the response's log-prob per token."""
    gamma: NotNegative | None = None
    """The margin; or give gamma_beta_ratio."""
    gamma_beta_ratio: NotNegative | None = None
    """The margin over beta, the authors' own knob; 0.5 when neither is given."""
    label_smoothing: Smoothing = 0.0
    """The share of pairs whose label is taken to be wrong."""

    uses: ClassVar[frozenset[str]] = frozenset()
    spellings: ClassVar[Mapping[str, str]] = {
        **DPOSettings.spellings,
        "preference.gamma": "gamma",
        "preference.gamma_beta_ratio": "gamma_beta_ratio",
    }

    def check(self, prefix: str) -> None:
        require(
            self.gamma is None or self.gamma_beta_ratio is None,
            f"{prefix}gamma and {prefix}gamma_beta_ratio are both set: give one",
        )
