"""Count the rows of a data set that are used and those left out, by reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rto.data.storage.groups import Groups

TOO_LONG = "prompt too long for data.max_len"
EQUAL = "equal chosen and rejected"
TOO_FEW = "too few responses"
DISLIKED = "no response with a good verdict"
HELD_OUT = "held out (data.eval_ratio)"
NOT_REACHED = "not reached (train.max_steps, last batch)"


@dataclass(frozen=True)
class Loaded:
    """Groups of examples that can be used, and how many could not, by reason.

    ``merged`` responses repeated another one to their prompt; ``truncated`` of the groups have a
    prompt that was cut.
    """

    rows: Groups[Any]
    filtered: Mapping[str, int] = field(default_factory=dict)
    merged: int = 0
    truncated: int = 0


@dataclass(frozen=True)
class RowCounts:
    """Of ``read`` units (rows, pairs, prompts) of the data set, ``used`` are in some batch.

    ``merged`` responses repeated another one to their prompt, and no unit holds them; ``truncated``
    of the units that can be used have a prompt that was cut.
    """

    unit: str = "rows"
    read: int = 0
    used: int = 0
    filtered: Mapping[str, int] = field(default_factory=dict)
    merged: int = 0
    truncated: int = 0


def truncated_told(count: int, unit: str) -> str:
    """The line that a run says of so many cut prompts."""
    return f"{count} {unit} have a prompt that is too long and was cut to fit"


def merged_told(count: int) -> str:
    """The line that a run says of so many merged responses."""
    return (
        f"{count} responses that stand twice for their prompt are merged: one of each, with the "
        "mean of its rewards"
    )
