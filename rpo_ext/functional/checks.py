"""What these methods refuse."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def require_positive(**hyperparameters: float) -> None:
    for name, value in hyperparameters.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}: must be positive")


def require_not_negative(**hyperparameters: float) -> None:
    for name, value in hyperparameters.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}: must be 0 or positive")


def finite_rewards(rewards: Tensor) -> Tensor:
    """``rewards`` [B] in fp32 or better; a missing one is an error, never a default."""
    if rewards.dim() != 1:
        raise ValueError(f"rewards have shape {tuple(rewards.shape)}: need [B]")
    if not bool(rewards.isfinite().all()):
        row = int((~rewards.isfinite()).nonzero()[0])
        raise ValueError(f"the reward of row {row} is {float(rewards[row])}: must be finite")
    return rewards.to(torch.promote_types(rewards.dtype, torch.float32))


def require_responses(group: Tensor, *, minimum: int, what: str) -> None:
    """Raise unless every prompt of ``group`` [B] has ``minimum`` rows."""
    numbers, sizes = group.unique(return_counts=True)
    if bool((sizes < minimum).any()):
        at = int((sizes < minimum).nonzero()[0])
        raise ValueError(
            f"{what} needs {minimum} responses per prompt, "
            f"group {int(numbers[at])} has {int(sizes[at])}"
        )
