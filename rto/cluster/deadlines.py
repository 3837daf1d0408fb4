"""How long a call on an actor may take, by what it does."""

from __future__ import annotations

QUICK_SECONDS = 120.0
QUICK = frozenset({
    "accept", "address", "devices", "keep", "packs", "receipt", "rest", "sent_digests", "written",
})  # fmt: skip
"""They tell or note something, on an actor that has nothing else to do."""
MOVING_SECONDS = 600.0
MOVING = frozenset({
    "export_weights", "init_weight_transfer", "load_weights", "response_logprobs", "send_weights",
    "sleep", "wake",
})  # fmt: skip
"""They move weights once, or compute on a few rows: minutes for the largest models."""


def limit_of(method: str, longest: float) -> float:
    """Seconds that a call of the method may take where none may take longer than ``longest``."""
    if method in QUICK:
        return min(QUICK_SECONDS, longest)
    return min(MOVING_SECONDS, longest) if method in MOVING else longest
