"""Rollouts on their way: sampled, and scored by what no update changes, beside the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from rto.protocols import Generator, Scorer
from rto.types import Prompt, Role, Rollout, ScoredBatch, TokenBatch, collate

TRAINED = frozenset({Role.POLICY, Role.CRITIC, Role.UNRELATED})
"""Scores by models that the updates change: of no use before the update that reads them."""


@dataclass(frozen=True)
class Draw:
    """The responses of one iteration. Both wait, and raise what went wrong."""

    sampling: Future[tuple[list[Rollout], TokenBatch]]
    scoring: Future[ScoredBatch]

    def sampled(self) -> tuple[list[Rollout], TokenBatch]:
        return self.sampling.result()

    def scored(self) -> ScoredBatch:
        """With the scores of frozen models and the rewards. A group whose reward failed is missing
        where ``reward.on_failure`` has it so."""
        return self.scoring.result()

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
    before is scored. A draw that was queued is sampled before a weight sync that comes later.
    """

    def __init__(
        self, generator: Generator, scorer: Scorer, *, roles: frozenset[Role], pad_token_id: int
    ) -> None:
        self._generator = generator
        self._scorer = scorer
        self._roles = roles - TRAINED
        self._pad_token_id = pad_token_id
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
        self._add(
            self._sampling.submit(
                lambda: self._collated(self._generator.generate(prompts, version, iteration))
            )
        )

    def restore(self, rollouts: Sequence[Rollout]) -> None:
        """Take up a draw that was sampled before the run was interrupted."""
        self._add(self._sampling.submit(lambda: self._collated(list(rollouts))))

    def next(self) -> Draw:
        return self._waiting.popleft()

    def sampled(self) -> list[list[Rollout]]:
        """Wait until no engine samples any more: the responses that wait to be trained on."""
        return [draw.sampled()[0] for draw in self._waiting]

    def _add(self, sampling: Future[tuple[list[Rollout], TokenBatch]]) -> None:
        def score() -> ScoredBatch:
            rollouts, tokens = sampling.result()
            return self._scorer.score(tokens, rollouts, self._roles)

        self._waiting.append(Draw(sampling, self._scoring.submit(score)))

    def _collated(self, rollouts: list[Rollout]) -> tuple[list[Rollout], TokenBatch]:
        return rollouts, collate(rollouts, pad_token_id=self._pad_token_id)
