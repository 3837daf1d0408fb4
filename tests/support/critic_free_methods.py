"""The methods without a critic, as their papers have them."""

from __future__ import annotations

from rto.methods.critic_free import CriticFree
from rto.methods.settings.policy_gradient import (
    DR_GRPO,
    GRPO,
    REINFORCE_BASELINE,
    REINFORCE_PP,
    RLOO,
)

METHODS = {
    settings.card.name: settings.into(CriticFree)
    for settings in (REINFORCE_PP, REINFORCE_BASELINE, RLOO, GRPO, DR_GRPO)
}
