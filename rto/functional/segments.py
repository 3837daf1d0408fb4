"""Reductions over the rows of each prompt.

``group`` [B] numbers the prompt of a row, by any integers and in any order. Every function returns
one entry per row [B], so prompts with different numbers of responses need no padding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, group: Tensor) -> Tensor:
    index, count = _index(values, group)
    return values.new_zeros(count).scatter_add(0, index, values)[index]


def segment_size(values: Tensor, group: Tensor) -> Tensor:
    """Number of rows of each row's prompt, in the dtype of ``values``."""
    return segment_sum(torch.ones_like(values), group)


def segment_mean(values: Tensor, group: Tensor) -> Tensor:
    return segment_sum(values, group) / segment_size(values, group)


def segment_max(values: Tensor, group: Tensor) -> Tensor:
    """Carries no gradient."""
    index, count = _index(values, group)
    lowest = values.new_full((count,), -torch.inf)
    return lowest.scatter_reduce(0, index, values.detach(), "amax")[index]


def segment_logsumexp(values: Tensor, group: Tensor) -> Tensor:
    """Shifted by the prompt's maximum: finite wherever the values are."""
    largest = segment_max(values, group)
    return largest + segment_sum((values - largest).exp(), group).log()


def segment_log_softmax(values: Tensor, group: Tensor) -> Tensor:
    return values - segment_logsumexp(values, group)


def segment_logsumexp_others(values: Tensor, group: Tensor) -> Tensor:
    """log sum exp over the prompt's other rows; every prompt needs two.

    log(exp(total) - exp(own)) is exact where another row is as large (own / total <= 1/2); for the
    prompt's largest row it cancels, so there the other rows are summed afresh.
    """
    total = segment_logsumexp(values, group)
    top = segment_first(values == segment_max(values, group), group)
    without_top = segment_logsumexp(values.masked_fill(top, -torch.inf), group)
    return torch.where(top, without_top, total + torch.log1p(-(values - total).exp()))


def segment_first(chosen: Tensor, group: Tensor) -> Tensor:
    """The first True row of each prompt, bool [B]."""
    require_rows(chosen=chosen, group=group)
    rows = torch.arange(len(group), device=group.device)
    candidates = (-rows).masked_fill(~chosen, -len(rows))
    return chosen & (candidates == segment_max(candidates.double(), group))


def sum_over_groups(values: Tensor, group: Tensor) -> Tensor:
    """Sum over prompts of each prompt's mean of ``values`` [B]."""
    return (values / segment_size(values, group)).sum()


def within_group_correlation(x: Tensor, y: Tensor, group: Tensor) -> float:
    """Pearson correlation of x and y [B], each less its mean over the rows of the group [B].

    0 where one of them does not vary within any group.
    """
    x, y = x.double(), y.double()
    x, y = x - segment_mean(x, group), y - segment_mean(y, group)
    size = (x.square().sum() * y.square().sum()).sqrt()
    return float((x * y).sum() / size) if size > 0 else 0.0


def _index(values: Tensor, group: Tensor) -> tuple[Tensor, int]:
    require_rows(values=values, group=group)
    numbers, index = group.unique(return_inverse=True)
    return index, len(numbers)


def require_rows(**tensors: Tensor) -> None:
    """Raise unless all are [B]: a [B, 1] would broadcast to [B, B] without an error."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{listed}: need [B]")
