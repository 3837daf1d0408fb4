"""Check that every reward source gives finite numbers, and add up several sources."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rto.errors import RewardProtocolError
from rto.types import Rollout


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
        if not abs(value) <= torch.finfo(torch.float32).max:
            raise RewardProtocolError(
                f"{source}: rewards[{index}] is {_short(value)}, not finite in float32"
            )
    return [float(value) for value in values]


def combine(
    sources: Sequence[Tensor],
    weights: Sequence[float],
    *,
    names: Sequence[str],
    rollouts: Sequence[Rollout],
) -> Tensor:
    """Weighted sum of the sources, each [B]: float32 [B].

    Raises:
        RewardProtocolError: names the source and the first rollout whose reward is not finite.
    """
    if not sources:
        raise ValueError("combine: no reward source")
    total = torch.zeros(len(rollouts))
    for rewards, weight, name in zip(sources, weights, names, strict=True):
        if rewards.shape != (len(rollouts),):
            shape = tuple(rewards.shape)
            raise RewardProtocolError(f"{name}: rewards {shape} for {len(rollouts)} responses")
        scaled = weight * rewards.detach().cpu().float()
        _check_finite(scaled, name=name, rollouts=rollouts)
        total = total + scaled
    _check_finite(total, name="weighted sum of the reward sources", rollouts=rollouts)
    return total


def _check_finite(rewards: Tensor, *, name: str, rollouts: Sequence[Rollout]) -> None:
    bad = (~rewards.isfinite()).nonzero().flatten().tolist()
    if bad:
        rollout = rollouts[bad[0]]
        raise RewardProtocolError(
            f"{name}: the reward of prompt {rollout.prompt.id}, sample {rollout.sample_index} is "
            f"{rewards[bad[0]].item()} ({len(bad)} of {len(rollouts)} rewards are not finite)"
        )


def _short(value: object) -> str:
    """A value for an error message: its type where it is not a number, cut and escaped."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    text = ascii(value) if isinstance(value, str | float | bool | None) else ""
    return f"{type(value).__name__} {text[:40]}".rstrip()
