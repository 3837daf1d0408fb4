"""Feedback as one number per response."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RatedResponse:
    """One response to a prompt and its scalar reward."""

    text: str
    reward: float


@dataclass(frozen=True)
class FeedbackRow:
    """All rated responses to one prompt."""

    prompt: str
    responses: tuple[RatedResponse, ...]
