"""Text for one line of a terminal."""

from __future__ import annotations


def one_line(text: str, limit: int = 1000) -> str:
    """The text with each run of white space as one space, cut to ``limit`` characters."""
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else f"{joined[: limit - 3]}..."
