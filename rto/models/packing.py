"""Rows without left padding: what the models read in place of a padded TokenBatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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


def pack_prompts(tokens: TokenBatch) -> tuple[Tensor, Tensor]:
    """The prompts alone for an encoder: ids and mask [B, P], real tokens from column 0 on.

    An encoder sees padding unless the mask hides it; the pad id is not embedded either way.
    """
    _check_prompts(tokens)
    return _to_the_front(tokens.prompt_ids, tokens.prompt_mask)


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
