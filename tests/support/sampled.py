"""What an engine sampled, as the rollouts of a run."""

from __future__ import annotations

from collections.abc import Sequence

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
