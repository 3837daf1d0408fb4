"""What a reward source may give: one finite number per response."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rto.errors import RewardProtocolError
from rto.sections.ranges import FLOAT32_MAX


def finite_rewards(values: object, *, count: int, source: str, first: int = 0) -> list[float]:
    """``values`` as ``count`` finite floats; ``first`` is the index of its first item.

    Raises:
        RewardProtocolError: names ``source`` and the first item that is not a finite number.
    """
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise RewardProtocolError(
            f"{source}: rewards is {_short(values)}, expected a list of {count} numbers"
        )
    if len(values) != count:
        raise RewardProtocolError(f"{source}: {len(values)} rewards for {count} responses")
    for index, value in enumerate(values, start=first):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RewardProtocolError(
                f"{source}: rewards[{index}] is {_short(value)}, not a number"
            )
        if not abs(value) <= FLOAT32_MAX:
            raise RewardProtocolError(
                f"{source}: rewards[{index}] is {_short(value)}, not finite in float32"
            )
    return [float(value) for value in values]


def _short(value: object) -> str:
    """A value for an error message: its type where it is not a number, cut and escaped."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    text = ascii(value) if isinstance(value, str | float | bool | None) else ""
    return f"{type(value).__name__} {text[:40]}".rstrip()
