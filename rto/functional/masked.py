"""Sums and means over the True entries of a bool mask.

Masks are applied by choosing, never by multiplication: 0 * NaN is NaN, so a product would
let padding leak into the value, and into the gradient of whatever came before it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_masked(mask: Tensor, **tensors: Tensor) -> None:
    """Raise unless ``mask`` is bool and every named tensor has its shape."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}, expected torch.bool")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, its mask {tuple(mask.shape)}"
            )


def zero_masked(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` with 0 where the mask is False."""
    return torch.where(mask, x, x.new_zeros(()))


def masked_sum(x: Tensor, mask: Tensor, *, dim: int | None = None) -> Tensor:
    """Sum of the True entries, over everything or along ``dim``."""
    check_masked(mask, x=x)
    return zero_masked(x, mask).sum(dim)


def masked_mean(
    x: Tensor, mask: Tensor, *, dim: int | None = None, denominator: float | Tensor | None = None
) -> Tensor:
    """Sum of the True entries over ``denominator``; over their own number when it is not given."""
    if denominator is None:
        denominator = mask.sum(dim).clamp(min=1)
    return masked_sum(x, mask, dim=dim) / denominator


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Population variance of the True entries."""
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


def whiten(x: Tensor, mask: Tensor, *, scale: bool = True, var_floor: float = 1e-8) -> Tensor:
    """(x - mean) / std over the True entries, 0 elsewhere; ``scale=False`` only centres."""
    centred = zero_masked(x - masked_mean(x, mask), mask)
    return centred * masked_var(x, mask).clamp(min=var_floor).rsqrt() if scale else centred
