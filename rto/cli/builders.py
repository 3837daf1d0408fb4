"""A configuration -> each method of this package. ``rto.cli.methods`` finds them by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rto.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.methods.critic_free import CriticFree, Name
    from rto.methods.ppo import PPO
    from rto.methods.preference import DPO, IPO, RDPO, TDPO, SimPO
    from rto.methods.rto import RTO
    from rto.methods.sft import SFT


def sft(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> SFT:
    from rto.methods.sft import SFT

    return SFT()


def dpo(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> DPO:
    from rto.methods.preference import DPO

    return DPO(label_smoothing=config.preference.label_smoothing, **_pair_fields(config, "beta"))


def ipo(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> IPO:
    from rto.methods.preference import IPO

    return IPO(reduction="mean", **_pair_fields(config, "beta"))


def ipo_sum(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> IPO:
    from rto.methods.preference import IPO

    return IPO(reduction="sum", **_pair_fields(config, "beta"))


def rdpo(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> RDPO:
    from rto.methods.preference import RDPO

    return RDPO(**_pair_fields(config, "beta", "alpha"))


def simpo(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> SimPO:
    from rto.methods.preference import SimPO

    return SimPO(
        label_smoothing=config.preference.label_smoothing,
        **_pair_fields(config, "beta", "gamma", "gamma_beta_ratio"),
    )


def tdpo1(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> TDPO:
    from rto.methods.preference import TDPO

    return TDPO(version=1, **_pair_fields(config, "beta"))


def tdpo2(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> TDPO:
    from rto.methods.preference import TDPO

    return TDPO(version=2, **_pair_fields(config, "beta", "alpha"))


def ppo(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PPO:
    from rto.methods.ppo import PPO

    return PPO(**_actor_fields(config), **_critic_fields(config))


def rto(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> RTO:
    from rto.methods.rto import RTO

    fields = _actor_fields(config) | _critic_fields(config) | _token_reward(config, tokenizer)
    return RTO(**fields)


def _critic_free(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, *, name: Name
) -> CriticFree:
    """RTO's token reward joins in where a DPO policy is given."""
    from rto.methods.critic_free import CriticFree

    fields = _actor_fields(config, **CRITIC_FREE_DEFAULTS.get(name, {}))
    if config.dpo.model_name_or_path is not None:
        fields |= _token_reward(config, tokenizer)
    return CriticFree(name=name, max_response_length=config.max_new_tokens, **fields)


CRITIC_FREE_DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": {"kl_use_loss": True, "kl_estimator": "k3", "loss_reduction": "sequence"},
    "dr_grpo": {"kl_use_loss": True, "kl_estimator": "k3"},
    "reinforce_baseline": {"kl_use_loss": True, "kl_estimator": "k2"},
}
"""Where the papers have it otherwise than PPO."""

CriticFreeBuilder = Callable[[RunConfig, "PreTrainedTokenizerBase"], "CriticFree"]
reinforce_pp: CriticFreeBuilder = functools.partial(_critic_free, name="reinforce_pp")
reinforce_baseline: CriticFreeBuilder = functools.partial(_critic_free, name="reinforce_baseline")
rloo: CriticFreeBuilder = functools.partial(_critic_free, name="rloo")
grpo: CriticFreeBuilder = functools.partial(_critic_free, name="grpo")
dr_grpo: CriticFreeBuilder = functools.partial(_critic_free, name="dr_grpo")


def segment_end_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a sentence: their text ends in . ! ? or holds a newline; and EoS.

    The RTO paper leaves the delimiters of its semi-token variant open; these are ours.
    """
    eos = tokenizer.eos_token_id
    ends = [eos] if isinstance(eos, int) else []
    for token_id in range(len(tokenizer)):
        text = str(tokenizer.decode([token_id]))
        if "\n" in text or text.rstrip().endswith((".", "!", "?")):
            ends.append(token_id)
    return tuple(sorted(set(ends)))


def _pair_fields(config: RunConfig, *names: str) -> dict[str, Any]:
    """The given fields of the ``preference`` section that are set: a method knows its defaults."""
    section = config.preference
    fields = {name: getattr(section, name) for name in names}
    given = {name: value for name, value in fields.items() if value is not None}
    return {"nll_coef": section.nll_loss_coef, **given}


def _token_reward(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    algo, own = config.algo, config.dpo.ref_model_name_or_path
    semi = algo.dpo_reward_variant == "semi"
    return {
        "dpo_reward_scale": algo.dpo_reward_scale,
        "dpo_reward_clip": algo.dpo_reward_clip,
        "dpo_reward_variant": algo.dpo_reward_variant,
        "separate_dpo_reference": own is not None and own != config.reference_path,
        "segment_end_ids": segment_end_ids(tokenizer) if semi else (),
    }


def _critic_fields(config: RunConfig) -> dict[str, Any]:
    return {"lambd": config.algo.advantage.lambd, "value_clip": config.critic.value_clip}


def _actor_fields(config: RunConfig, **defaults: Any) -> dict[str, Any]:
    """Fields of a policy gradient; ``defaults`` are the method's own, which a flag overrides."""
    algo, actor, advantage = config.algo, config.actor, config.algo.advantage
    chosen = {
        "kl_estimator": algo.kl.estimator,
        "kl_use_loss": algo.kl.use_loss,
        "loss_reduction": algo.loss_reduction,
    }
    fields = {
        "kl_coef": algo.kl.init_coef,
        "kl_target": algo.kl.target,
        "kl_horizon": algo.kl.horizon,
        "gamma": advantage.gamma,
        "no_std_norm": advantage.no_std_norm,
        "clip_low_high": actor.clip_low_high,
        "dual_clip": actor.dual_clip,
        "entropy_coef": actor.entropy_coef,
        "reward_coef": config.reward.coef,
        "reward_clip_range": config.reward.clip_range,
        "is_correction": advantage.is_correction_type if advantage.is_correction_enable else None,
        "is_correction_threshold": advantage.is_correction_threshold,
        **defaults,
        **{name: value for name, value in chosen.items() if value is not None},
    }
    reads_before = not fields.get("kl_use_loss") or fields["is_correction"] is not None
    return {**fields, "on_policy": config.steps_per_iteration == 1 and not reads_before}
