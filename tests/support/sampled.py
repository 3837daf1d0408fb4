"""What an engine sampled: as the rollouts of a run, and as values that compare and hash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rto.rollout.requests import Sample
from rto.types import Prompt, Rollout


def rollouts_of(prompts: Sequence[tuple[int, ...]], samples: Sequence[Sample]) -> list[Rollout]:
    """``samples`` hold as many for each prompt, those of one prompt side by side."""
    each = len(samples) // len(prompts)
    return [
        Rollout(
            Prompt(i // each, prompts[i // each], ""), i % each, s.token_ids, s.logprobs, s.text,
            s.finished, 0, 0,
        )
        for i, s in enumerate(samples)
    ]  # fmt: skip


def token_rows(drawn: Sequence[Sample | Rollout]) -> list[tuple[int, ...]]:
    return [tuple(each.token_ids.tolist()) for each in drawn]


def values(drawn: Sequence[Sample | Rollout]) -> list[dict[str, object]]:
    """Every field, the numbers of an array with their type."""
    return [
        {
            name: (value.dtype, value.tolist()) if isinstance(value, np.ndarray) else value
            for name, value in vars(each).items()
        }
        for each in drawn
    ]
