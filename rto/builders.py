"""A configuration -> each method of this package. ``rto.cli.methods`` finds them by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rto.sections.run_config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.methods.critic_free import CriticFree
    from rto.methods.policy_gradient import PolicyGradient
    from rto.methods.ppo import PPO
    from rto.methods.preference import DPO, IPO, RDPO, TDPO, SimPO
    from rto.methods.sft import SFT
    from rto.protocols import TokenReward


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

    return replace(PPO(), **_actor_fields(config, PPO()), **_critic_fields(config))


def rto(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PPO:
    from rto.methods.rto import RTO

    return replace(
        ppo(config, tokenizer), card=RTO, token_rewards=_token_rewards(config, tokenizer)
    )


def _critic_free(config: RunConfig, tokenizer: PreTrainedTokenizerBase, *, name: str) -> CriticFree:
    """RTO's token reward joins in where a DPO policy is given."""
    from rto.methods.critic_free import METHODS

    own, has_dpo = METHODS[name], config.dpo.model_name_or_path is not None
    return replace(
        own,
        **_actor_fields(config, own),
        token_rewards=_token_rewards(config, tokenizer) if has_dpo else (),
        max_response_length=config.max_new_tokens,
    )


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


def _token_rewards(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[TokenReward, ...]:
    """RTO's; nothing where its scale is 0."""
    from rto.methods.rto import DpoTokenReward

    algo, own = config.algo, config.dpo.ref_model_name_or_path
    semi = algo.dpo_reward_variant == "semi"
    reward = DpoTokenReward(
        scale=algo.dpo_reward_scale,
        clip=algo.dpo_reward_clip,
        variant=algo.dpo_reward_variant,
        separate_reference=own is not None and own != config.reference_path,
        segment_end_ids=segment_end_ids(tokenizer) if semi else (),
    )
    return (reward,) if reward.scale > 0 else ()


def _critic_fields(config: RunConfig) -> dict[str, Any]:
    return {"lambd": config.algo.advantage.lambd, "value_clip": config.critic.value_clip}


def _actor_fields(config: RunConfig, own: PolicyGradient) -> dict[str, Any]:
    """What the flags say of a policy gradient; ``own`` is the method as its paper has it."""
    algo, actor, advantage = config.algo, config.actor, config.algo.advantage
    chosen = {
        "kl_estimator": algo.kl.estimator,
        "kl_use_loss": algo.kl.use_loss,
        "loss_reduction": algo.loss_reduction,
    }
    is_correction = advantage.is_correction_type if advantage.is_correction_enable else None
    kl_use_loss = own.kl_use_loss if algo.kl.use_loss is None else algo.kl.use_loss
    reads_before = not kl_use_loss or is_correction is not None
    return {
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
        "is_correction": is_correction,
        "is_correction_threshold": advantage.is_correction_threshold,
        "single_step": config.steps_per_iteration == 1 and not reads_before,
        **{name: value for name, value in chosen.items() if value is not None},
    }
