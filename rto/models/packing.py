"""Pack a padded TokenBatch into rows without left padding, which the models read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rto.batching.microbatch import cut
from rto.models.sequence import Shard
from rto.types import TokenBatch

BUCKET_OVERHEAD = {"cpu": 16, "cuda": 1024}
"""What one call of the attention costs beside its tokens, in tokens."""
BUCKET_ROWS = 64


@dataclass(frozen=True)
class PackedRows:
    """How the attention finds the rows among packed tokens.

    ``buckets``: token indices [b, L] of rows of similar length, the last one repeated where a row
    is shorter. ``back`` [N]: where among the buckets' tokens, all end to end, that of each packed
    token is; None where they are the same. ``shard``: the part of the tokens that this rank holds,
    where several share them.
    """

    buckets: tuple[Tensor, ...]
    back: Tensor | None
    shard: Shard | None = None


@dataclass(frozen=True)
class Packed:
    """What a decoder reads: ids [1, N] with ``positions`` and ``rows``, or padded [B, L] without.

    The rest are indices into all its tokens end to end: ``before`` [R], those that predict the R
    response tokens, in the order of ``TokenBatch.response_mask``; ``prompt`` [B], the last one of
    each row's prompt; ``last`` [B], the last one of each row.
    """

    ids: Tensor
    before: Tensor
    prompt: Tensor
    last: Tensor
    positions: Tensor | None = None
    rows: PackedRows | None = None


def pad_right(tokens: TokenBatch) -> Packed:
    """Move each row's real tokens to the front, prompt first.

    Right padding cannot be seen by a causal model, so no attention mask is needed and positions
    are the default ones. Padding repeats the row's first token: the pad id is never embedded.
    """
    _check_prompts(tokens)
    ids, real = _to_the_front(
        torch.cat([tokens.prompt_ids, tokens.response_ids], dim=1),
        torch.cat([tokens.prompt_mask, tokens.response_mask], dim=1),
    )
    starts = torch.arange(len(ids), device=ids.device) * ids.shape[1]
    prompt = starts + tokens.prompt_mask.sum(-1) - 1
    rows, columns = tokens.response_mask.nonzero(as_tuple=True)
    return Packed(
        ids=ids,
        before=prompt[rows] + columns,
        prompt=prompt,
        last=starts + real.sum(-1) - 1,
    )


def pack(tokens: TokenBatch) -> Packed:
    """All real tokens in one row, and the prompt of neighbours of one group once.

    A row's own tokens are its prompt, if the row before it has another, and its response.
    """
    _check_prompts(tokens)
    device = tokens.response_ids.device
    prompts, responses = tokens.prompt_mask.sum(-1), tokens.response_mask.sum(-1)
    first = _first_of_prompt(tokens)
    own = torch.where(first, prompts, 0) + responses
    ends = own.cumsum(0)
    # The number of the row that holds each row's prompt: the last first one up to it.
    holder = torch.where(first, torch.arange(len(own), device=device), 0).cummax(0).values
    prompt_starts, response_starts = (ends - own)[holder], ends - responses

    at_prompt = _spans(prompt_starts[first], prompts[first])
    at_response = _spans(response_starts, responses)
    ids = torch.empty(at_prompt.numel() + at_response.numel(), dtype=torch.long, device=device)
    ids[at_prompt] = tokens.prompt_ids[first][tokens.prompt_mask[first]]
    ids[at_response] = tokens.response_ids[tokens.response_mask]
    positions = torch.empty_like(ids)
    positions[at_prompt] = _spans(torch.zeros_like(prompts[first]), prompts[first])
    positions[at_response] = _spans(prompts, responses)

    prompt = prompt_starts + prompts - 1
    opens = positions[at_response] == prompts.repeat_interleave(responses)
    return Packed(
        ids=ids[None],
        before=torch.where(opens, prompt.repeat_interleave(responses), at_response - 1),
        prompt=prompt,
        last=torch.where(responses > 0, ends - 1, prompt),
        positions=positions[None],
        rows=_rows(prompt_starts, prompts, response_starts, responses, first, positions),
    )


def _rows(
    prompt_starts: Tensor,
    prompts: Tensor,
    response_starts: Tensor,
    responses: Tensor,
    first: Tensor,
    positions: Tensor,
) -> PackedRows:
    device = prompts.device
    lengths: list[int] = (prompts + responses).tolist()
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    slices = cut(
        [[lengths[row]] for row in order],
        max_tokens=float("inf"),
        max_sequences=BUCKET_ROWS,
        overhead=BUCKET_OVERHEAD[device.type],
    )
    buckets: list[Tensor] = []
    starts, taken = [0] * len(lengths), 0
    for part in slices:
        numbers = order[part]
        width = lengths[numbers[0]]
        for number in numbers:
            starts[number] = taken
            taken += width
        chosen = torch.tensor(numbers, device=device)
        prompt, total = prompts[chosen, None], (prompts + responses)[chosen, None]
        column = torch.arange(width, device=device).minimum(total - 1)
        in_prompt = prompt_starts[chosen, None] + column
        in_response = response_starts[chosen, None] + column - prompt
        buckets.append(torch.where(column < prompt, in_prompt, in_response))
    in_order = order == sorted(order) and taken == positions.numel()
    if in_order:
        return PackedRows(tuple(buckets), None)
    start = torch.tensor(starts, device=device)
    row = torch.arange(len(lengths), device=device)
    owner = row.repeat_interleave(torch.where(first, prompts, 0) + responses)
    return PackedRows(tuple(buckets), start[owner] + positions)


def _first_of_prompt(tokens: TokenBatch) -> Tensor:
    """[B]: whether the row before has another group or another prompt."""
    same = (
        (tokens.group[1:] == tokens.group[:-1])
        & (tokens.prompt_ids[1:] == tokens.prompt_ids[:-1]).all(-1)
        & (tokens.prompt_mask[1:] == tokens.prompt_mask[:-1]).all(-1)
    )
    return torch.cat([same.new_ones(1), ~same])


def _spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """start, start + 1, ... for each of the spans, end to end."""
    before = lengths.cumsum(0) - lengths
    count = torch.arange(int(lengths.sum()), device=lengths.device)
    return count + (starts - before).repeat_interleave(lengths)


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
    """One number per response token [R] -> fp32 [B, T], 0 where masked."""
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
