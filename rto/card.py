"""A method in one row of `rto methods`: its name, its source, what it learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Feedback = Literal["demonstrations", "pairs", "rewards"]
Mode = Literal["offline", "online"]


@dataclass(frozen=True)
class Card:
    """A method in one row of `rto methods`."""

    name: str
    """Identity of the method; a checkpoint refuses to resume under another one."""
    title: str
    """Full name, printed at start-up."""
    paper: str
    """arXiv id, or the source in words."""
    feedback: Feedback
    modes: tuple[Mode, ...]

    def __str__(self) -> str:
        return f"{self.title} ({self.paper})"
