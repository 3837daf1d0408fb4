"""What is said about a flag that does not exist: the one place for it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

REPLACED = {
    "rpo_alpha": "TRL's SFT term on the chosen response is --preference.nll_loss_coef",
    "gt_reward_scale": "NVIDIA's name; write --algo.reward_aware.eta",
    "ref_policy_kl_penalty": "NVIDIA's name; write --algo.reward_aware.beta",
}
"""Flags of other programs, with what they are called here."""


def explain(name: str, value: str) -> str:
    """What a flag of another program is here; empty where none is known.

    Args:
        name: without dashes.
        value: what was given with it, words joined by blanks.
    """
    return REPLACED.get(name, "")


def nearest(name: str, readable: Collection[str], *, prefix: str) -> str:
    """The end of an error about an unknown name: the nearest one that the command reads."""
    near = difflib.get_close_matches(name, readable, 1, 0.6)
    return f": did you mean {prefix}{near[0]}?" if near else ""
