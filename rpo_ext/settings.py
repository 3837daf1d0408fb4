"""The settings of the methods that learn from one number per response.

Each class is a base of the method's own class: names, defaults, ranges and descriptions stand once.
Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from rto.card import Card
from rto.sections.methods import MethodSettings
from rto.sections.ranges import NotNegative, Positive, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.protocols import PolicyMethod
    from rto.sections.run_config import RunConfig

Reduction = Literal["mean", "sum"]
Distance = Literal["kl_target_policy", "kl_policy_target", "sqloo"]


def _card(name: str, title: str, arxiv: str) -> Card:
    return Card(name, title, f"arXiv {arxiv}", feedback="rewards", modes=("offline", "online"))


@dataclass(frozen=True, kw_only=True)
class ReleasedSettings(MethodSettings):
    """A method that the released code of arXiv 2506.13702 has, with an objective of its own.

    What ``authors_code`` leaves as it is: dropout is off, padding is masked, every tensor of the
    loss is [B], all methods are sampled from alike. Temperatures, rates and batch sizes are
    hyperparameters, which the examples carry.
    """

    authors_code: bool = False
    """The objective that the RPO authors' released code optimises, in place of the paper's."""

    released: ClassVar[Mapping[str, str]]
    """The fields that make it that objective."""
    spellings: ClassVar[Mapping[str, str]] = {
        "authors_code": "authors_code",
        "algo.authors_code": "authors_code",
    }

    def resolved(self) -> Self:
        return replace(self, **self.released) if self.authors_code else self

    def says(self) -> str:
        if not self.authors_code:
            return ""
        name = self.card.name
        fields = ", ".join(f"algo.{name}.{key} {value}" for key, value in self.released.items())
        return f"the authors' code: {fields}"


@dataclass(frozen=True, kw_only=True)
class RPOSettings(ReleasedSettings):
    """Reward Partitioning Optimization (arXiv 2506.13702)."""

    card: Card = _card("rpo", "Reward Partitioning Optimization", "2506.13702")
    tau: Positive = 1.0
    """Temperature: the smaller, the further from the reference."""
    estimator: Literal["uniform", "ref", "loo", "batch_mean", "importance"] = "uniform"
    """How the partition is estimated: log-mean-exp, the authors' reference weights, leave-one-out,
    the mean over the batch (what the released code optimises), or pi_ref/pi_sampler (online). The
    first supposes responses of the reference, the last those of the sampler."""
    reduction: Reduction = "sum"
    """Log-prob of a response: in all (the theory, which uniform, loo and importance estimate the
    partition for) or per token (the released code; with ref and batch_mean, whose targets would
    otherwise ask for memorisation)."""

    metrics: ClassVar[Mapping[str, str]] = {
        "rpo/loss": "Squared error between log π/π_ref and its target, from the rewards.",
        "rpo/log_partition": "Estimated log partition function of the prompts.",
        "rpo/target_mean": "Mean target of log π/π_ref.",
        "rpo/target_std": "Standard deviation of the targets of log π/π_ref.",
    }
    uses: ClassVar[frozenset[str]] = frozenset({"ref"})
    released: ClassVar[Mapping[str, str]] = {"estimator": "batch_mean", "reduction": "mean"}
    spellings: ClassVar[Mapping[str, str]] = {
        "rpo_beta": "tau",
        "algo.rpo_beta": "tau",
        "algo.rpo.beta": "tau",
        **ReleasedSettings.spellings,
    }

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rpo_ext.methods.rpo import RPO

        return self.into(RPO)


@dataclass(frozen=True, kw_only=True)
class DROSettings(ReleasedSettings):
    """Direct Reward Optimisation (arXiv 2405.19107)."""

    card: Card = _card("dro", "Direct Reward Optimisation", "2405.19107")
    tau: Positive = 1.0
    """Weight of the KL to the reference. Only the variant value divides its policy gradient by it,
    as the paper's Algorithm 1."""
    variant: Literal["value", "shared_head", "policy", "prompt_variance"] = "value"
    """A value network of its own (DRO-V), a head on the policy (the RPO authors' code), no values
    (DRO-P), or the variance within each prompt."""
    reduction: Reduction | None = None
    """Log-prob of a response, in all or per token. Unset: sum; mean for shared_head, as in the RPO
    authors' code."""

    metrics: ClassVar[Mapping[str, str]] = {
        "dro/loss": "Squared residual of reward, value and log π/π_ref.",
        "dro/residual": "Mean residual: reward less KL term less baseline.",
        "dro/residual_std": "Standard deviation of the residual before the update.",
        "dro/baseline": "Mean baseline: the critic's value, or the batch mean.",
    }
    uses: ClassVar[frozenset[str]] = frozenset({"ref", "critic"})
    released: ClassVar[Mapping[str, str]] = {"variant": "shared_head", "reduction": "mean"}

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rpo_ext.methods.dro import DRO

        return self.into(DRO)


@dataclass(frozen=True, kw_only=True)
class KTOSettings(ReleasedSettings):
    """Kahneman-Tversky Optimization (arXiv 2402.01306)."""

    card: Card = _card("kto", "Kahneman-Tversky Optimization", "2402.01306")
    beta: Positive | None = None
    """Inverse temperature. Unset: 0.1 (matched_mean: 1, as the RPO authors set it)."""
    desirable_weight: NotNegative = 1.0
    """Weight of the desirable responses (lambda_D). The paper keeps desirable_weight times their
    number over undesirable_weight times the others' in [1, 4/3]."""
    undesirable_weight: NotNegative = 1.0
    """Weight of the undesirable ones (lambda_U)."""
    variant: Literal["mismatched", "matched_mean"] = "mismatched"
    """Reference point from prompts with unrelated responses (the paper, TRL), or the mean of the
    batch's own log-ratios (the RPO authors' code)."""
    threshold: Literal["global_mean", "batch_mean", "prompt_mean", "label"] = "global_mean"
    """Which rewards are desirable: above the training set's mean, the batch's, their prompt's; or
    `label`: rewards are 1 or 0."""

    metrics: ClassVar[Mapping[str, str]] = {
        "kto/loss": "KTO loss: 1 − sigmoid of the signed margin, weighted.",
        "kto/margin": "Implicit reward against the reference point, with a plus for "
        "desirable responses and a minus for others.",
        "kto/accuracy": "Share of responses on the right side of the reference point.",
        "kto/reference_point": "KL estimate that the implicit rewards are compared with, nats.",
        "kto/desirable_share": "Share of responses that count as desirable.",
    }
    uses: ClassVar[frozenset[str]] = frozenset({"ref"})
    released: ClassVar[Mapping[str, str]] = {
        "variant": "matched_mean",
        "threshold": "global_mean",
    }

    def check(self, prefix: str) -> None:
        total = self.desirable_weight + self.undesirable_weight
        require(
            total > 0, f"{prefix}desirable_weight and undesirable_weight are 0: nothing to learn"
        )

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rpo_ext.methods.kto import KTO

        return self.into(KTO)


@dataclass(frozen=True, kw_only=True)
class RewardAwareSettings(MethodSettings):
    """Reward-aware preference optimisation (arXiv 2502.00203); NVIDIA's papers call it RPO."""

    card: Card = _card(
        "reward_aware", "Reward-aware Preference Optimization (NVIDIA's RPO)", "2502.00203"
    )
    beta: Positive = 0.1
    """Factor of the implicit reward, the log-ratio to the reference."""
    eta: Positive = 1.0
    """Factor of the explicit reward: how sharp the target is (see reward_aware/target_entropy)."""
    distance: Distance = "kl_target_policy"
    """Between explicit and implicit rewards: the KL either way, or the squared leave-one-out
    difference."""
    length_normalise: bool = False
    """Log-prob of a response per token, not in all; beta then means beta per token."""
    sft_weight: NotNegative = 0.0
    """Weight of an SFT term on each prompt's best response, reduced as the log-ratio is."""

    metrics: ClassVar[Mapping[str, str]] = {
        "reward_aware/loss": "Distance between the policy's and the rewards' ranking of responses.",
        "reward_aware/sft": "Negative log-likelihood of each prompt's best response.",
        "reward_aware/target_entropy": "Entropy of the target over a prompt's responses "
        "against its maximum: near 1, the rewards hardly differ.",
        "reward_aware/tied_share": "Share of prompts whose rewards are all equal.",
        "reward_aware/responses": "Responses per prompt.",
        "reward_aware/top1_agreement": "Share of prompts whose best response is also the "
        "policy's favourite, by log π/π_ref.",
        "reward_aware/concordance": "Share of the reward gaps that the policy orders alike: "
        "guessing gives 0.5.",
        "reward_aware/best_log_ratio": "log π/π_ref of each prompt's best response, nats.",
        "reward_aware/worst_log_ratio": "log π/π_ref of each prompt's worst response, nats.",
    }
    uses: ClassVar[frozenset[str]] = frozenset({"ref"})
    other_programs: ClassVar[Mapping[str, str]] = {
        name: f"NVIDIA's name; write --algo reward_aware --algo.reward_aware.distance {distance}"
        for name, distance in (
            ("rpo_bwd_kl", "kl_target_policy"),
            ("rpo_fwd_kl", "kl_policy_target"),
            ("rpo_sq", "sqloo"),
        )
    }

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rpo_ext.methods.reward_aware import RewardAware

        return self.into(RewardAware)
