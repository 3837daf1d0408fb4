"""What is said about a flag that does not exist: the one place for it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from rto.sections.foreign import explain as foreign_flag


def explain(name: str, command: str) -> str:
    """What a flag of another program is here; empty where none is known.

    Args:
        name: without dashes.
    """
    return foreign_flag(name.replace("-", "_"), command) or ""


def nearest(name: str, readable: Collection[str], *, prefix: str) -> str:
    """The end of an error about an unknown name: the nearest one that the command reads."""
    lower = {each.lower(): each for each in readable}
    near = difflib.get_close_matches(name.lower(), lower, 1, 0.6)
    return f": did you mean {prefix}{lower[near[0]]}?" if near else ""
