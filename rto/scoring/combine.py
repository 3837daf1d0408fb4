"""The weighted sum of several reward sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rto.errors import RewardProtocolError
from rto.types import Rollout


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
