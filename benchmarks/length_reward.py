"""A reward that costs nothing to compute: the longer the better."""

from __future__ import annotations

from collections.abc import Sequence


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
) -> list[float]:
    del labels
    return [float(len(q) - len(p)) for q, p in zip(queries, prompts, strict=True)]
