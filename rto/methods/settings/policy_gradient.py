"""The settings of PPO, RTO and the methods without a critic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rto.card import Card
from rto.sections.methods import MethodSettings
from rto.sections.ranges import AboveOne, Clip, Count, NotNegative, Number, Positive, Share, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.protocols import PolicyMethod, TokenReward
    from rto.sections.run_config import RunConfig


def _online(name: str, title: str, arxiv: str) -> Card:
    return Card(name, title, f"arXiv {arxiv}", feedback="rewards", modes=("online",))


@dataclass(frozen=True, kw_only=True)
class PolicyGradientSettings(MethodSettings):
    """The KL, the clipped ratio, the sentence reward: what PPO, RTO and the critic-free share."""

    kl_coef: NotNegative = 0.01
    """KL coefficient (beta_2 of the RTO paper)."""
    kl_target: Positive | None = None
    """Target KL of the adaptive controller; the coefficient stays fixed when unset."""
    kl_horizon: Count = 10000
    """Samples over which the adaptive controller acts (Ziegler et al. 2019)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimator of the KL per token (Schulman 2020)."""
    kl_use_loss: bool = False
    """Put the KL into the loss instead of the reward."""
    gamma: Share = 1.0
    """Discount per token."""
    no_std_norm: bool = False
    """Centre the advantages without dividing by their standard deviation."""
    eps_clip: Clip = 0.2
    """PPO clip range, symmetric."""
    eps_clip_low_high: tuple[Clip, Positive] | None = None
    """Lower and upper clip range; replaces eps_clip when given."""
    dual_clip: AboveOne | None = None
    """Bound of the loss for negative advantages (Ye et al. 2020); above 1."""
    entropy_coef: NotNegative | None = None
    """Entropy bonus; 0 logs the entropy without using it; unset computes none."""
    loss_reduction: Literal["token", "sequence"] = "token"
    """Mean over all tokens of a step, or mean of the per-sequence means (RTO's own code)."""
    reward_coef: Number = 1.0
    """beta_3 of the RTO paper: factor of the summed, normalised and clipped reward."""
    reward_clip_range: tuple[Number, Number] | None = (-10.0, 10.0)
    """Bounds of the summed and normalised reward, before reward_coef; null for none."""
    is_correction_enable: bool = False
    """Weight tokens by the trainer/sampler probability ratio: for `train.async_lag`, and where
    engine and trainer compute differently."""
    is_correction_type: Literal["tis", "icepop", "seq-tis", "seq-mask-tis"] = "tis"
    """tis cuts a token's ratio at the threshold, icepop drops tokens outside; seq-tis cuts the
    product over a response, seq-mask-tis drops responses whose geometric mean lies outside."""
    is_correction_threshold: tuple[NotNegative, Positive] = (0.5, 5.0)
    """Lowest and highest ratio."""

    uses: ClassVar[frozenset[str]] = frozenset({"ref"})
    spellings: ClassVar[Mapping[str, str]] = {
        "algo.kl.init_coef": "kl_coef",
        "algo.kl.target": "kl_target",
        "algo.kl.horizon": "kl_horizon",
        "algo.kl.estimator": "kl_estimator",
        "algo.kl.use_loss": "kl_use_loss",
        "algo.advantage.gamma": "gamma",
        "algo.advantage.no_std_norm": "no_std_norm",
        "algo.advantage.is_correction_enable": "is_correction_enable",
        "algo.advantage.is_correction_type": "is_correction_type",
        "algo.advantage.is_correction_threshold": "is_correction_threshold",
        "algo.loss_reduction": "loss_reduction",
        "actor.eps_clip": "eps_clip",
        "actor.eps_clip_low_high": "eps_clip_low_high",
        "actor.dual_clip": "dual_clip",
        "actor.entropy_coef": "entropy_coef",
        "reward.coef": "reward_coef",
        "reward.clip_range": "reward_clip_range",
    }

    @property
    def clip_low_high(self) -> tuple[float, float]:
        return self.eps_clip_low_high or (self.eps_clip, self.eps_clip)

    @property
    def is_correction(self) -> Literal["tis", "icepop", "seq-tis", "seq-mask-tis"] | None:
        """The kind of importance correction, None for none."""
        return self.is_correction_type if self.is_correction_enable else None

    def check(self, prefix: str) -> None:
        for name in ("reward_clip_range", "is_correction_threshold"):
            bounds = getattr(self, name)
            low, high = bounds or (0, 1)
            require(low < high, f"{prefix}{name} is {low:g}, {high:g}: the first must be lower")

    def from_other_sections(self, config: RunConfig) -> dict[str, Any]:
        """Fields of a policy gradient that are no settings of its own."""
        reads_before = not self.kl_use_loss or self.is_correction is not None
        return {"single_step": config.steps_per_iteration == 1 and not reads_before}


@dataclass(frozen=True, kw_only=True)
class PPOSettings(PolicyGradientSettings):
    """Proximal Policy Optimization with a critic (arXiv 1707.06347)."""

    card: Card = _online("ppo", "Proximal Policy Optimization", "1707.06347")
    lambd: Share = 0.95
    """GAE lambda. The RTO paper uses 0.95; OpenRLHF 0.11 defaults to 1."""
    value_clip: Positive | None = 0.5
    """Clip range of the value around its rollout-time estimate (RTO's own code: 0.2); null for
    none."""

    uses: ClassVar[frozenset[str]] = frozenset({"ref", "critic"})
    spellings: ClassVar[Mapping[str, str]] = {
        **PolicyGradientSettings.spellings,
        "algo.advantage.lambd": "lambd",
        "critic.value_clip": "value_clip",
    }

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rto.methods.ppo import PPO

        return self.into(PPO, **self.from_other_sections(config))


DPO_MODEL = "dpo.model_name_or_path"


@dataclass(frozen=True, kw_only=True)
class DpoRewardSettings(MethodSettings):
    """RTO's token reward: the log-ratio of a DPO policy, dpo.model_name_or_path."""

    dpo_reward_scale: NotNegative = 0.05
    """beta_1 of the RTO paper (equation 4.7): factor of the raw DPO log-ratio; 0 switches the term
    off."""
    dpo_reward_clip: NotNegative = 0.05
    """Bound of the scaled term per token; 0 switches the clip off. The paper has none."""
    dpo_reward_variant: Literal["token", "semi", "delayed", "shaping"] = "token"
    """Where the DPO reward is paid: each token, sentence ends, the end, or as shaping."""

    spellings: ClassVar[Mapping[str, str]] = {
        "dpo_reward_scale": "dpo_reward_scale",
        "dpo_reward_clip": "dpo_reward_clip",
        "algo.dpo_reward_scale": "dpo_reward_scale",
        "algo.dpo_reward_clip": "dpo_reward_clip",
        "algo.dpo_reward_variant": "dpo_reward_variant",
    }

    def token_rewards(
        self, config: RunConfig, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[TokenReward, ...]:
        """RTO's; nothing where its scale is 0."""
        if self.dpo_reward_scale == 0:
            return ()
        from rto.methods.rto import DpoTokenReward, segment_end_ids

        own = config.dpo.ref_model_name_or_path
        semi = self.dpo_reward_variant == "semi"
        return (
            DpoTokenReward(
                scale=self.dpo_reward_scale,
                clip=self.dpo_reward_clip,
                variant=self.dpo_reward_variant,
                separate_reference=own is not None and own != config.reference_path,
                segment_end_ids=segment_end_ids(tokenizer) if semi else (),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class RTOSettings(DpoRewardSettings, PPOSettings):
    """Reinforced Token Optimization (arXiv 2404.18922): PPO with a DPO policy's token reward."""

    card: Card = _online("rto", "Reinforced Token Optimization", "2404.18922")

    uses: ClassVar[frozenset[str]] = frozenset({"ref", "critic", "dpo"})
    spellings: ClassVar[Mapping[str, str]] = {
        **DpoRewardSettings.spellings,
        **PPOSettings.spellings,
    }

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rto.methods.ppo import PPO

        paid = self.token_rewards(config, tokenizer)
        return self.into(PPO, token_rewards=paid, **self.from_other_sections(config))


@dataclass(frozen=True, kw_only=True)
class CriticFreeSettings(PolicyGradientSettings):
    """Policy gradients whose baseline is the other responses to the prompt, or nothing."""

    baseline: Literal["none", "mean", "leave_one_out"]
    """What is taken from a response's reward: nothing, its group's mean, or the others' mean."""
    group_scale: bool = False
    """Divide the reward minus its mean by the group's standard deviation (GRPO)."""
    whitening: bool = False
    """Whiten the advantages over all tokens of the rollout (REINFORCE++)."""
    constant_length: bool = False
    """Divide a response's loss by the longest response that is allowed (Dr. GRPO)."""

    def check(self, prefix: str) -> None:
        super().check(prefix)
        require(
            not self.constant_length or self.loss_reduction == "token",
            f"{prefix}loss_reduction is {self.loss_reduction}: {self.card.name} divides by a "
            "constant length, leave it unset",
        )
        require(
            not self.group_scale or self.baseline == "mean",
            f"{prefix}group_scale is on and {prefix}baseline is {self.baseline}: need mean",
        )


@dataclass(frozen=True, kw_only=True)
class CriticFreeMethod(DpoRewardSettings, CriticFreeSettings):
    """A policy gradient without a critic, and RTO's token reward where a DPO policy is given."""

    uses: ClassVar[frozenset[str]] = frozenset({"ref", "dpo"})
    acts_with: ClassVar[Mapping[str, str]] = {
        "dpo_reward_scale": DPO_MODEL,
        "dpo_reward_clip": DPO_MODEL,
        "dpo_reward_variant": DPO_MODEL,
        "dpo.ref_model_name_or_path": DPO_MODEL,
    }
    spellings: ClassVar[Mapping[str, str]] = {
        **DpoRewardSettings.spellings,
        **PolicyGradientSettings.spellings,
    }

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        from rto.methods.critic_free import CriticFree

        has_dpo = config.dpo.model_name_or_path is not None
        return self.into(
            CriticFree,
            token_rewards=self.token_rewards(config, tokenizer) if has_dpo else (),
            max_response_length=config.max_new_tokens,
            **self.from_other_sections(config),
        )


REINFORCE_PP = CriticFreeMethod(
    card=_online("reinforce_pp", "REINFORCE++", "2501.03262"),
    baseline="none",
    whitening=True,
)
REINFORCE_BASELINE = CriticFreeMethod(
    card=_online("reinforce_baseline", "REINFORCE++ with a group baseline", "2501.03262"),
    baseline="mean",
    whitening=True,
    kl_use_loss=True,
    kl_estimator="k2",
)
RLOO = CriticFreeMethod(
    card=_online("rloo", "REINFORCE leave-one-out", "2402.14740"),
    baseline="leave_one_out",
)
GRPO = CriticFreeMethod(
    card=_online("grpo", "Group Relative Policy Optimization", "2402.03300"),
    baseline="mean",
    group_scale=True,
    kl_use_loss=True,
    kl_estimator="k3",
    loss_reduction="sequence",
)
DR_GRPO = CriticFreeMethod(
    card=_online("dr_grpo", "GRPO done right", "2503.20783"),
    baseline="mean",
    constant_length=True,
    kl_use_loss=True,
    kl_estimator="k3",
)
