"""Rollouts on their way: sampled, and scored by what no update changes, beside the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Self, TypeVar

import torch

from rto.interrupt import waited
from rto.protocols import Generator, Scorer
from rto.types import Prompt, Role, Rollout, ScoredBatch, TokenBatch, collate, widen

TRAINED = frozenset({Role.POLICY, Role.CRITIC, Role.UNRELATED})
"""Scores by models that the updates change: of no use before the update that reads them."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Draw:
    """The responses of one iteration. Both wait, and raise what went wrong."""

    sampling: Future[tuple[list[Rollout], TokenBatch]]
    scoring: list[Future[ScoredBatch]] = field(default_factory=list)
    """Of each part, added when it is sampled."""

    def sampled(self) -> tuple[list[Rollout], TokenBatch]:
        return waited(self.sampling)

    def scored(self) -> ScoredBatch:
        """With the scores of frozen models and the rewards. A group whose reward failed is missing
        where ``reward.on_failure`` has it so."""
        _, tokens = waited(self.sampling)
        return joined(tokens, [waited(part) for part in self.scoring])

    def joined(self, scored: ScoredBatch) -> tuple[list[Rollout], ScoredBatch]:
        """The rollouts and their batch with all scores, without the groups that are missing.

        Args:
            scored: the whole draw with other scores.
        """
        given, rollouts = self.scored(), self.sampled()[0]
        if len(given) < len(scored):
            left = torch.isin(scored.tokens.group, given.tokens.group).nonzero().flatten()
            scored, rollouts = scored.take(left), [rollouts[row] for row in left.tolist()]
        return rollouts, scored.with_scores(given.scores)


class Draws:
    """The draws that are not trained on yet, oldest first.

    One thread samples and one scores, each a draw after the other: sampling goes on while the draw
    before, or the ``parts`` of the same one that are sampled, are scored. A draw that was queued is
    sampled before a weight sync that comes later.
    """

    def __init__(
        self,
        generator: Generator,
        scorer: Scorer,
        *,
        roles: frozenset[Role],
        pad_token_id: int,
        parts: int = 1,
    ) -> None:
        self._generator = generator
        self._scorer = scorer
        self._roles = roles - TRAINED
        self._pad_token_id = pad_token_id
        self._parts = parts
        self._sampling = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sampling")
        self._scoring = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")
        self._waiting: deque[Draw] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Where the loop fails, what still runs ends with the actors that it waits for."""
        for thread in (self._sampling, self._scoring):
            thread.shutdown(wait=error is None, cancel_futures=True)

    def start(self, iteration: int, prompts: Sequence[Prompt], version: int) -> None:
        """Sample an iteration's responses from ``version``."""
        parts = cut(prompts, self._parts)
        self._add(lambda: self._generator.generate(parts, version, iteration))

    def restore(self, rollouts: Sequence[Rollout]) -> None:
        """Take up a draw that was sampled before the run was interrupted."""
        groups = cut(by_prompt(rollouts), self._parts)
        parts = [[rollout for group in part for rollout in group] for part in groups]
        self._add(lambda: iter(parts))

    def next(self) -> Draw:
        return self._waiting.popleft()

    def sampled(self) -> list[list[Rollout]]:
        """Wait until no engine samples any more: the responses that wait to be trained on."""
        return [draw.sampled()[0] for draw in self._waiting]

    def _add(self, sample: Callable[[], Iterator[list[Rollout]]]) -> None:
        scoring: list[Future[ScoredBatch]] = []

        def sampled() -> tuple[list[Rollout], TokenBatch]:
            parts: list[tuple[list[Rollout], TokenBatch]] = []
            for rollouts in sample():
                parts.append(self._collated(rollouts))
                scoring.append(self._scoring.submit(self._score, *parts[-1]))
            if len(parts) == 1:
                return parts[0]
            return self._collated([rollout for part, _ in parts for rollout in part])

        self._waiting.append(Draw(self._sampling.submit(sampled), scoring))

    def _score(self, rollouts: list[Rollout], tokens: TokenBatch) -> ScoredBatch:
        return self._scorer.score(tokens, rollouts, self._roles)

    def _collated(self, rollouts: list[Rollout]) -> tuple[list[Rollout], TokenBatch]:
        return rollouts, collate(rollouts, pad_token_id=self._pad_token_id)


def cut(items: Sequence[Item], parts: int) -> list[Sequence[Item]]:
    """The items in order, in so many parts of equal size, give or take one, none of them empty."""
    parts = max(1, min(parts, len(items)))
    ends = [len(items) * part // parts for part in range(parts + 1)]
    return [items[begin:end] for begin, end in pairwise(ends)]


def by_prompt(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Groups of responses to one prompt, which lie side by side."""
    groups: list[list[Rollout]] = []
    for rollout in rollouts:
        if rollout.sample_index == 0:
            groups.append([])
        groups[-1].append(rollout)
    return groups


def joined(tokens: TokenBatch, parts: Sequence[ScoredBatch]) -> ScoredBatch:
    """The scores of all rows of ``tokens`` from those of its parts, which are as wide as their own
    longest response."""
    if len(parts) == 1:
        return parts[0]
    roles = parts[0].scores.keys()
    return ScoredBatch(
        tokens, {role: torch.cat([widen(part[role], tokens) for part in parts]) for role in roles}
    )
