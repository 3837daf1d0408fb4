"""Read verdicts such as "up" and "down" or "good" and "bad" as labels."""

from __future__ import annotations

from decimal import Decimal

UP = (
    "true",
    "yes",
    "y",
    "up",
    "thumbsup",
    "👍",
    "good",
    "like",
    "liked",
    "positive",
    "pos",
    "accepted",
)
DOWN = (
    "false",
    "no",
    "n",
    "down",
    "thumbsdown",
    "👎",
    "bad",
    "dislike",
    "disliked",
    "negative",
    "neg",
)
WORDS = {**dict.fromkeys(UP, True), **dict.fromkeys((*DOWN, "rejected"), False)}
SIGNS = {"1": True, "+1": True, "0": False, "-1": False}


def is_verdict(value: object) -> bool:
    """True and false, or a word for them; a number alone may be a rating."""
    return isinstance(value, bool) or (isinstance(value, str) and _word(value) in WORDS)


def verdict(value: object) -> bool | None:
    """Up is True; None of what is neither. Of numbers 1 is up, 0 and -1 are down."""
    if isinstance(value, str):
        return (WORDS | SIGNS).get(_word(value))
    if isinstance(value, int | float | Decimal) and value in (1, 0, -1):
        return value == 1
    return None


def _word(text: str) -> str:
    """Lower case, without spaces, hyphens between letters, and underscores."""
    word = "".join(text.split()).lower().replace("_", "")
    return word if word.lstrip("+-").isdigit() else word.replace("-", "")
