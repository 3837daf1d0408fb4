"""The sections of a run's configuration that belong to the methods: one knob, one owner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rto.sections import require


@dataclass(frozen=True)
class Preference:
    """Training on pairs: `rto dpo`."""

    loss: Literal["dpo", "ipo", "ipo_sum", "rdpo", "simpo", "tdpo1", "tdpo2"] = "dpo"
    beta: float | None = None
    """Unset: the method's own, 0.1 (SimPO: 2)."""
    label_smoothing: float = 0.0
    """Above 0, DPO is conservative DPO."""
    nll_loss_coef: float = 0.0
    """Weight of an SFT term on the chosen response."""
    alpha: float | None = None
    """R-DPO's price of a token (0.001 when unset); TDPO2's weight of the KL (0.5 when unset)."""
    gamma: float | None = None
    """SimPO's margin; or give gamma_beta_ratio."""
    gamma_beta_ratio: float | None = None
    """SimPO's margin over beta; 0.5 when neither is given."""

    def __post_init__(self) -> None:
        require(
            self.beta is None or self.beta > 0, f"preference.beta is {self.beta}: must be positive"
        )
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
        smoothing = self.label_smoothing
        require(0 <= smoothing < 0.5, f"preference.label_smoothing is {smoothing}: 0 <= x < 0.5")


@dataclass(frozen=True)
class KL:
    init_coef: float = 0.01
    """KL coefficient (beta_2 of the RTO paper)."""
    target: float | None = None
    """Target KL of the adaptive controller; fixed coefficient when unset."""
    horizon: int = 10000
    estimator: Literal["k1", "k2", "k3"] | None = None
    """Unset: the method's own (grpo, dr_grpo: k3; reinforce_baseline: k2; others: k1)."""
    use_loss: bool | None = None
    """The KL in the loss instead of the reward. Unset: the method's own (those three: yes)."""

    def __post_init__(self) -> None:
        require(self.init_coef >= 0, f"algo.kl.init_coef is {self.init_coef}: must not be negative")
        target = self.target
        require(target is None or target > 0, f"algo.kl.target is {target}: must be positive")


@dataclass(frozen=True)
class Advantage:
    gamma: float = 1.0
    lambd: float = 0.95
    """GAE lambda. The RTO paper uses 0.95; OpenRLHF 0.11 defaults to 1."""
    no_std_norm: bool = False
    """Centre the advantages without dividing by their standard deviation."""
    is_correction_enable: bool = False
    """Weight tokens by the trainer/sampler probability ratio."""
    is_correction_type: Literal["tis", "icepop", "seq-mask-tis"] = "tis"
    is_correction_threshold: tuple[float, float] = (0.5, 5.0)

    def __post_init__(self) -> None:
        for name, value in (("gamma", self.gamma), ("lambd", self.lambd)):
            require(0 <= value <= 1, f"algo.advantage.{name} is {value}: must be in [0, 1]")


@dataclass(frozen=True)
class RPO:
    """Reward Partitioning Optimization (arXiv 2506.13702); its temperature is ``rpo_beta``."""

    estimator: Literal["uniform", "ref", "loo", "batch_mean", "importance"] = "uniform"
    """How the partition is estimated: log-mean-exp, the authors' reference weights, leave-one-out,
    the mean over the batch (what the released code optimises), or pi_ref/pi_sampler (online)."""
    reduction: Literal["mean", "sum"] = "sum"
    """Log-prob of a response: per token (the released code) or in all (the theory)."""


@dataclass(frozen=True)
class DRO:
    """Direct Reward Optimization (arXiv 2405.19107)."""

    tau: float = 1.0
    variant: Literal["value", "shared_head", "policy", "prompt_variance"] = "value"
    """A value network of its own (DRO-V), a head on the policy (the RPO authors' code), no values
    (DRO-P), or the variance within each prompt."""
    reduction: Literal["mean", "sum"] | None = None
    """Unset: sum; mean for shared_head, as in the RPO authors' code."""

    def __post_init__(self) -> None:
        require(self.tau > 0, f"algo.dro.tau is {self.tau}: must be positive")


@dataclass(frozen=True)
class KTO:
    """Kahneman-Tversky Optimization (arXiv 2402.01306)."""

    beta: float | None = None
    """Unset: 0.1 (matched_mean: 1)."""
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    variant: Literal["mismatched", "matched_mean"] = "mismatched"
    """Reference point from prompts with unrelated responses (the paper, TRL), or the mean of the
    batch's own log-ratios (the RPO authors' code)."""
    threshold: Literal["global_mean", "batch_mean", "prompt_mean", "label"] = "global_mean"
    """Which rewards are desirable: above the training set's mean, the batch's, their prompt's; or
    `label`: rewards are 1 or 0."""

    def __post_init__(self) -> None:
        require(self.beta is None or self.beta > 0, f"algo.kto.beta is {self.beta}: positive")


@dataclass(frozen=True)
class RewardAware:
    """Reward-aware preference optimisation (arXiv 2502.00203); NVIDIA's papers call it RPO."""

    beta: float = 0.1
    eta: float = 1.0
    """Factor of the explicit reward."""
    distance: str = "kl_target_policy"
    """kl_target_policy, kl_policy_target or sqloo."""
    length_normalise: bool = False
    sft_weight: float = 0.0
    """Weight of an SFT term on each prompt's best response."""

    def __post_init__(self) -> None:
        require(self.beta > 0, f"algo.reward_aware.beta is {self.beta}: must be positive")
        require(self.eta > 0, f"algo.reward_aware.eta is {self.eta}: must be positive")


@dataclass(frozen=True)
class Algo:
    name: str = "ppo"
    """Method, as listed by `rto methods`."""
    advantage: Advantage = field(default_factory=Advantage)
    kl: KL = field(default_factory=KL)
    dpo_reward_scale: float = 0.05
    """beta_1 of the RTO paper: factor of the raw DPO log-ratio; 0 switches the term off."""
    dpo_reward_clip: float = 0.05
    """Bound of the scaled term per token; 0 switches the clip off. The paper has none."""
    dpo_reward_variant: Literal["token", "semi", "delayed", "shaping"] = "token"
    """Where the DPO reward is paid: each token, sentence ends, the end, or as shaping."""
    loss_reduction: Literal["token", "sequence"] | None = None
    """Mean over all tokens of a step, or mean of the per-sequence means (RTO's own code). Unset:
    the method's own (grpo: sequence; others: token)."""
    ptx_coef: float = 0.05
    """Weight of the language-model loss on data.pretrain_dataset, where one is given."""
    rpo_beta: float = 1.0
    """Temperature of Reward Partitioning Optimization (the papers' tau)."""
    rpo: RPO = field(default_factory=RPO)
    dro: DRO = field(default_factory=DRO)
    kto: KTO = field(default_factory=KTO)
    reward_aware: RewardAware = field(default_factory=RewardAware)
    authors_code: bool = False
    """`rto fit`, rpo, dro and kto: the objective that the RPO authors' released code optimises."""

    def __post_init__(self) -> None:
        scale, clip = self.dpo_reward_scale, self.dpo_reward_clip
        require(
            scale >= 0, f"algo.dpo_reward_scale is {scale}: 0 disables, negative has no meaning"
        )
        require(clip >= 0, f"algo.dpo_reward_clip is {clip}: 0 disables, negative has no meaning")
        require(self.rpo_beta > 0, f"algo.rpo_beta is {self.rpo_beta}: must be positive")
