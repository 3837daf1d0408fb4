"""Whether what a rank computed, and what it holds, is finite: agreed on by all ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class StepOutcome:
    """What became of an optimizer step, the same on all ranks.

    ``loss`` is the sum over micro-batches and ranks, ``norm`` that of the whole gradient. Where one
    of the two is not finite, no weight and no state of the optimizer was changed, and the gradient
    is gone.
    """

    applied: bool
    loss: float
    norm: float

    @property
    def problem(self) -> str:
        """Why it was not applied."""
        if not math.isfinite(self.loss):
            return f"loss is {self.loss}"
        return f"gradient norm is {self.norm}"


def not_finite(named: Iterable[tuple[str, Tensor]], device: torch.device) -> list[str]:
    """Names of the tensors that are NaN or infinite somewhere, on this rank or on another.

    All ranks call it with the same names in the same order; each looks at what it has of them.
    """
    names: list[str] = []
    bad: list[Tensor] = []
    for name, tensor in named:
        names.append(name)
        bad.append(_is_bad(tensor.detach()).to(device))
    if not names:
        return []
    agreed = torch.stack(bad).to(torch.uint8)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return [name for name, wrong in zip(names, agreed.tolist(), strict=True) if wrong]


def _is_bad(tensor: Tensor) -> Tensor:
    """Without a copy of the tensor, and without waiting for its device."""
    if not tensor.is_floating_point() or not tensor.numel():
        return torch.zeros((), dtype=torch.bool)
    low, high = torch.aminmax(tensor)
    return ~(low.isfinite() & high.isfinite())
