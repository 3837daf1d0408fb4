"""The example configurations, and which command each is for."""

from __future__ import annotations

from pathlib import Path

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "examples" / "configs").glob("*.yaml"))
STAGES = ("sft", "reward", "dpo")
PAIR_LOSSES = {"rdpo": "dpo", "simpo": "dpo", "tdpo": "dpo"}
"""Losses of `rto dpo` that have configurations of their own."""


def command_of(config: Path) -> str:
    """The command that a configuration is for: its name has the stage or the loss as a word."""
    words = [PAIR_LOSSES.get(word, word) for word in config.stem.split("-")]
    return next((word for word in words if word in (*STAGES, "fit")), "train")
