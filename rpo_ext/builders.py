"""A configuration -> each method of this package. Registered as entry points ``rto.methods``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rto.sections.run_config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rpo_ext.methods.dro import DRO
    from rpo_ext.methods.kto import KTO
    from rpo_ext.methods.reward_aware import RewardAware
    from rpo_ext.methods.rpo import RPO


def rpo(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> RPO:
    from rpo_ext.methods.rpo import RPO

    section = config.algo.rpo
    return RPO(tau=config.algo.rpo_beta, estimator=section.estimator, reduction=section.reduction)


def dro(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> DRO:
    from rpo_ext.methods.dro import DRO

    section = config.algo.dro
    own = "mean" if section.variant == "shared_head" else "sum"
    return DRO(tau=section.tau, variant=section.variant, reduction=section.reduction or own)


def kto(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> KTO:
    from rpo_ext.methods.kto import KTO

    section = config.algo.kto
    own = 1.0 if section.variant == "matched_mean" else 0.1
    return KTO(
        beta=section.beta or own,
        desirable_weight=section.desirable_weight,
        undesirable_weight=section.undesirable_weight,
        variant=section.variant,
        threshold=section.threshold,
    )


def reward_aware(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> RewardAware:
    from rpo_ext.functional.reward_aware import parse_distance
    from rpo_ext.methods.reward_aware import RewardAware

    section = config.algo.reward_aware
    return RewardAware(
        beta=section.beta,
        eta=section.eta,
        distance=parse_distance(section.distance),
        length_normalise=section.length_normalise,
        sft_weight=section.sft_weight,
    )
