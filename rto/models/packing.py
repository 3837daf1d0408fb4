"""Rows without left padding: what the models read in place of a padded TokenBatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rto.data.microbatch import sharing_pays
from rto.types import TokenBatch


@dataclass(frozen=True)
class Packed:
    """Real tokens of each row from column 0 on: ids [B, L], lengths [B].

    ``rows`` and ``before`` [N] index the positions that predict the N response tokens, in the
    order of ``TokenBatch.response_mask``.
    """

    ids: Tensor
    lengths: Tensor
    rows: Tensor
    before: Tensor


def pack(tokens: TokenBatch) -> Packed:
    """Move each row's real tokens to the front, prompt first.

    Right padding cannot be seen by a causal model, so no attention mask is needed and positions
    are the default ones. Padding repeats the row's first token: the pad id is never embedded.
    """
    _check_prompts(tokens)
    ids, real = _to_the_front(
        torch.cat([tokens.prompt_ids, tokens.response_ids], dim=1),
        torch.cat([tokens.prompt_mask, tokens.response_mask], dim=1),
    )
    rows, columns = tokens.response_mask.nonzero(as_tuple=True)
    return Packed(
        ids=ids,
        lengths=real.sum(-1),
        rows=rows,
        before=tokens.prompt_mask.sum(-1)[rows] + columns - 1,
    )


@dataclass(frozen=True)
class Shared:
    """Rows that hold a prompt once and after it all its responses.

    ``ids`` and ``positions`` [G, L]; ``mask`` [G, 1, L, L] is True where a token (axis 2) sees
    another (axis 3): those before it of the prompt and of its own response, and itself. ``rows``
    and ``before`` [N] are as in ``Packed``; ``owner`` [B] is where each row of the batch is.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    rows: Tensor
    before: Tensor
    owner: Tensor


def shared_spans(tokens: TokenBatch, *, width: int) -> list[range]:
    """The batch's rows in runs: neighbours that answer one prompt where reading it once pays."""
    joined = (
        (tokens.group[1:] == tokens.group[:-1])
        & (tokens.prompt_ids[1:] == tokens.prompt_ids[:-1]).all(-1)
        & (tokens.prompt_mask[1:] == tokens.prompt_mask[:-1]).all(-1)
    )
    cuts = [0, *(row for row, same in enumerate(joined.tolist(), start=1) if not same), len(tokens)]
    prompts, responses = tokens.prompt_mask.sum(-1).tolist(), tokens.response_mask.sum(-1).tolist()
    spans: list[range] = []
    for first, end in pairwise(cuts):
        pays = sharing_pays(prompts[first], responses[first:end], width=width)
        spans += [range(first, end)] if pays else [range(row, row + 1) for row in range(first, end)]
    return spans


def pack_shared(tokens: TokenBatch, spans: Sequence[range]) -> Shared:
    """A row for each span. Padding comes last and repeats the prompt's first token."""
    _check_prompts(tokens)
    device = tokens.response_ids.device

    def per_row(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device)

    lengths = tokens.response_mask.sum(-1)
    owner = per_row([number for number, span in enumerate(spans) for _ in span])
    number_in_span = per_row([number for span in spans for number in range(1, len(span) + 1)])
    first = per_row([span.start for span in spans])
    prompt_ids, prompt_mask = _to_the_front(tokens.prompt_ids, tokens.prompt_mask)
    prompt_lengths = prompt_mask.sum(-1)
    responses_before = lengths.cumsum(0) - lengths
    start = prompt_lengths + responses_before - responses_before[first][owner]
    width = int((start + lengths).max())

    shape = (len(spans), width)
    ids = prompt_ids[first, :1].expand(shape).clone()
    positions = torch.zeros(shape, dtype=torch.long, device=device)
    segment = torch.full(shape, -1, device=device)
    rows, columns = prompt_mask[first].nonzero(as_tuple=True)
    ids[rows, columns] = prompt_ids[first][rows, columns]
    positions[rows, columns] = columns
    segment[rows, columns] = 0
    row, at = tokens.response_mask.nonzero(as_tuple=True)
    rows, columns = owner[row], start[row] + at
    ids[rows, columns] = tokens.response_ids[row, at]
    positions[rows, columns] = prompt_lengths[row] + at
    segment[rows, columns] = number_in_span[row]
    visible = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    return Shared(
        ids=ids,
        positions=positions,
        mask=(visible & causal)[:, None],
        rows=rows,
        before=torch.where(at == 0, prompt_lengths[row], columns) - 1,
        owner=owner,
    )


def pack_prompts(tokens: TokenBatch) -> tuple[Tensor, Tensor]:
    """The prompts alone for an encoder: ids and mask [B, P], real tokens from column 0 on.

    An encoder sees padding unless the mask hides it; the pad id is not embedded either way.
    """
    _check_prompts(tokens)
    return _to_the_front(tokens.prompt_ids, tokens.prompt_mask)


def distinct_prompts(tokens: TokenBatch) -> tuple[Tensor, Tensor]:
    """A row of each group [G], and which of them has the prompt of each row [B].

    Rows of one group with different prompts make every row its own.
    """
    rows = torch.arange(len(tokens), device=tokens.group.device)
    groups, owner = tokens.group.unique(return_inverse=True)
    first = torch.full_like(groups, len(tokens)).scatter_reduce(0, owner, rows, "amin")
    same = (tokens.prompt_ids == tokens.prompt_ids[first][owner]) & (
        tokens.prompt_mask == tokens.prompt_mask[first][owner]
    )
    return (first, owner) if bool(same.all()) else (rows, rows)


def unpack(values: Tensor, tokens: TokenBatch) -> Tensor:
    """One number per response token [N] -> fp32 [B, T], 0 where masked."""
    empty = torch.zeros(tokens.response_mask.shape, dtype=torch.float32, device=values.device)
    return empty.masked_scatter(tokens.response_mask, values.float())


def _check_prompts(tokens: TokenBatch) -> None:
    if not bool(tokens.prompt_mask.any(-1).all()):
        row = int((~tokens.prompt_mask.any(-1)).nonzero()[0])
        raise ValueError(f"row {row} has an empty prompt: nothing predicts its first token")


def _to_the_front(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(ids, mask) with the real tokens first; padding repeats the row's first token."""
    order = torch.argsort(mask.logical_not().to(torch.int8), dim=1, stable=True)
    lengths = mask.sum(-1)
    width = int(lengths.max())
    ids = ids.gather(1, order)[:, :width]
    real = torch.arange(width, device=ids.device) < lengths[:, None]
    return torch.where(real, ids, ids[:, :1]), real
