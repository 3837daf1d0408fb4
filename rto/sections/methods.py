"""The sections of a run's configuration that belong to the methods: one knob, one owner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rto.sections.ranges import (
    Count,
    NotNegative,
    Positive,
    Range,
    Section,
    Share,
    require,
)


@dataclass(frozen=True)
class Preference(Section):
    """Training on pairs: `rto dpo`."""

    loss: Literal["dpo", "ipo", "ipo_sum", "rdpo", "simpo", "tdpo1", "tdpo2"] = "dpo"
    """The method: what `rto methods` lists as learning from pairs."""
    beta: Positive | None = None
    """Inverse temperature. Unset: the method's own, 0.1 (SimPO: 2)."""
    label_smoothing: Annotated[float, Range(least=0, below=0.5)] = 0.0
    """Above 0, DPO is conservative DPO."""
    nll_loss_coef: NotNegative = 0.0
    """Weight of an SFT term on the chosen response."""
    alpha: NotNegative | None = None
    """R-DPO's price of a token (0.001 when unset); TDPO2's weight of the KL (0.5 when unset)."""
    gamma: NotNegative | None = None
    """SimPO's margin; or give gamma_beta_ratio."""
    gamma_beta_ratio: NotNegative | None = None
    """SimPO's margin over beta; 0.5 when neither is given."""

    def check(self, prefix: str) -> None:
        smoothed = ("dpo", "simpo")
        require(
            self.label_smoothing == 0 or self.loss in smoothed,
            f"preference.label_smoothing is {self.label_smoothing} and preference.loss is "
            f"{self.loss}: only {' and '.join(smoothed)} have it",
        )
        require(
            self.gamma is None or self.gamma_beta_ratio is None,
            "preference.gamma and preference.gamma_beta_ratio are both set: give one",
        )


@dataclass(frozen=True)
class KL(Section):
    """The price of leaving the reference."""

    init_coef: NotNegative = 0.01
    """KL coefficient (beta_2 of the RTO paper)."""
    target: Positive | None = None
    """Target KL of the adaptive controller; fixed coefficient when unset."""
    horizon: Count = 10000
    """Samples over which the adaptive controller acts (Ziegler et al. 2019)."""
    estimator: Literal["k1", "k2", "k3"] | None = None
    """Unset: the method's own (grpo, dr_grpo: k3; reinforce_baseline: k2; others: k1)."""
    use_loss: bool | None = None
    """The KL in the loss instead of the reward. Unset: the method's own (those three: yes)."""


@dataclass(frozen=True)
class Advantage(Section):
    """From token rewards to advantages."""

    gamma: Share = 1.0
    """Discount per token."""
    lambd: Share = 0.95
    """GAE lambda. The RTO paper uses 0.95; OpenRLHF 0.11 defaults to 1."""
    no_std_norm: bool = False
    """Centre the advantages without dividing by their standard deviation."""
    is_correction_enable: bool = False
    """Weight tokens by the trainer/sampler probability ratio."""
    is_correction_type: Literal["tis", "icepop", "seq-mask-tis"] = "tis"
    """Cut the ratio at the threshold, drop the tokens outside, or the sequences outside."""
    is_correction_threshold: tuple[NotNegative, Positive] = (0.5, 5.0)
    """Lowest and highest ratio."""

    def check(self, prefix: str) -> None:
        low, high = self.is_correction_threshold
        shown = f"{prefix}is_correction_threshold is {low:g}, {high:g}"
        require(low < high, f"{shown}: the first must be lower")


@dataclass(frozen=True)
class RPOSettings(Section):
    """Reward Partitioning Optimization (arXiv 2506.13702); its temperature is ``rpo_beta``."""

    estimator: Literal["uniform", "ref", "loo", "batch_mean", "importance"] = "uniform"
    """How the partition is estimated: log-mean-exp, the authors' reference weights, leave-one-out,
    the mean over the batch (what the released code optimises), or pi_ref/pi_sampler (online)."""
    reduction: Literal["mean", "sum"] = "sum"
    """Log-prob of a response: per token (the released code) or in all (the theory)."""


@dataclass(frozen=True)
class DROSettings(Section):
    """Direct Reward Optimization (arXiv 2405.19107)."""

    tau: Positive = 1.0
    """Weight of the KL to the reference."""
    variant: Literal["value", "shared_head", "policy", "prompt_variance"] = "value"
    """A value network of its own (DRO-V), a head on the policy (the RPO authors' code), no values
    (DRO-P), or the variance within each prompt."""
    reduction: Literal["mean", "sum"] | None = None
    """Unset: sum; mean for shared_head, as in the RPO authors' code."""


@dataclass(frozen=True)
class KTOSettings(Section):
    """Kahneman-Tversky Optimization (arXiv 2402.01306)."""

    beta: Positive | None = None
    """Inverse temperature. Unset: 0.1 (matched_mean: 1)."""
    desirable_weight: NotNegative = 1.0
    """Weight of the desirable responses (lambda_D)."""
    undesirable_weight: NotNegative = 1.0
    """Weight of the undesirable ones (lambda_U)."""
    variant: Literal["mismatched", "matched_mean"] = "mismatched"
    """Reference point from prompts with unrelated responses (the paper, TRL), or the mean of the
    batch's own log-ratios (the RPO authors' code)."""
    threshold: Literal["global_mean", "batch_mean", "prompt_mean", "label"] = "global_mean"
    """Which rewards are desirable: above the training set's mean, the batch's, their prompt's; or
    `label`: rewards are 1 or 0."""

    def check(self, prefix: str) -> None:
        total = self.desirable_weight + self.undesirable_weight
        require(
            total > 0, f"{prefix}desirable_weight and undesirable_weight are 0: nothing to learn"
        )


@dataclass(frozen=True)
class RewardAwareSettings(Section):
    """Reward-aware preference optimisation (arXiv 2502.00203); NVIDIA's papers call it RPO."""

    beta: Positive = 0.1
    """Factor of the implicit reward, the log-ratio to the reference."""
    eta: Positive = 1.0
    """Factor of the explicit reward."""
    distance: Literal["kl_target_policy", "kl_policy_target", "sqloo"] = "kl_target_policy"
    """Between explicit and implicit rewards: the KL either way, or the squared leave-one-out
    difference."""
    length_normalise: bool = False
    """Log-prob of a response per token, not in all."""
    sft_weight: NotNegative = 0.0
    """Weight of an SFT term on each prompt's best response."""


@dataclass(frozen=True)
class Algo(Section):
    """The method and its coefficients."""

    name: str = "ppo"
    """Method, as listed by `rto methods`."""
    advantage: Advantage = field(default_factory=Advantage)
    kl: KL = field(default_factory=KL)
    dpo_reward_scale: NotNegative = 0.05
    """beta_1 of the RTO paper: factor of the raw DPO log-ratio; 0 switches the term off."""
    dpo_reward_clip: NotNegative = 0.05
    """Bound of the scaled term per token; 0 switches the clip off. The paper has none."""
    dpo_reward_variant: Literal["token", "semi", "delayed", "shaping"] = "token"
    """Where the DPO reward is paid: each token, sentence ends, the end, or as shaping."""
    loss_reduction: Literal["token", "sequence"] | None = None
    """Mean over all tokens of a step, or mean of the per-sequence means (RTO's own code). Unset:
    the method's own (grpo: sequence; others: token)."""
    ptx_coef: NotNegative = 0.05
    """Weight of the language-model loss on data.pretrain_dataset, where one is given."""
    rpo_beta: Positive = 1.0
    """Temperature of Reward Partitioning Optimization (the papers' tau)."""
    rpo: RPOSettings = field(default_factory=RPOSettings)
    dro: DROSettings = field(default_factory=DROSettings)
    kto: KTOSettings = field(default_factory=KTOSettings)
    reward_aware: RewardAwareSettings = field(default_factory=RewardAwareSettings)
    authors_code: bool = False
    """`rto fit`, rpo, dro and kto: the objective that the RPO authors' released code optimises."""
