"""The batches of offline training: stored rows as the scored batch of each optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rto.data.examples import Example, collate_groups
from rto.data.sampler import permutation
from rto.errors import UserError
from rto.types import ScoredBatch, TokenBatch


class OfflineBatches:
    """Yields (step, batch) from ``start_step`` on; what a step holds depends on the seed alone.

    ``batch_size`` counts groups: a pair, or the responses to one prompt, is one. Rows that do not
    fill an epoch's last batch are left out of that epoch. ``score`` gets a batch and the numbers
    of its groups.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Example]],
        *,
        batch_size: int,
        seed: int,
        epochs: int,
        pad_token_id: int,
        max_steps: int | None = None,
        start_step: int = 0,
        score: Callable[[TokenBatch, Sequence[int]], ScoredBatch] | None = None,
    ) -> None:
        if len(groups) < batch_size:
            raise UserError(
                f"a batch holds {batch_size} rows, but the dataset has {len(groups)}: lower "
                "train.batch_size or give more rows"
            )
        self._groups = groups
        self._batch_size = batch_size
        self._seed = seed
        self._pad_token_id = pad_token_id
        self._start_step = start_step
        self._score = score
        self.steps_per_epoch = len(groups) // batch_size
        total = self.steps_per_epoch * epochs
        self.num_steps = total if max_steps is None else min(total, max_steps)

    @property
    def visited(self) -> np.ndarray:
        """The numbers of the groups that some step holds, those before ``start_step`` included,
        ascending."""
        whole, rest = divmod(self.num_steps, self.steps_per_epoch)
        visited = np.zeros(len(self._groups), bool)
        for epoch in range(whole + (rest > 0)):
            steps = rest if epoch == whole else self.steps_per_epoch
            order = permutation(len(self._groups), seed=self._seed, epoch=epoch)
            visited[order[: steps * self._batch_size]] = True
            if visited.all():
                break
        return np.flatnonzero(visited)

    def __iter__(self) -> Iterator[tuple[int, ScoredBatch]]:
        order = np.empty(0, np.int64)
        for step in range(self._start_step, self.num_steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if batch == 0 or not len(order):
                order = permutation(len(self._groups), seed=self._seed, epoch=epoch)
            rows = order[batch * self._batch_size : (batch + 1) * self._batch_size].tolist()
            tokens = collate_groups(
                [self._groups[row] for row in rows], pad_token_id=self._pad_token_id
            )
            scored = ScoredBatch(tokens, {}) if self._score is None else self._score(tokens, rows)
            yield step, scored
