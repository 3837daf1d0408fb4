"""Numbers that are not finite, told with the samples that they belong to.

Scores and targets are looked at before anything is trained on them, so that no weight has changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from rto.errors import TrainingDiverged
from rto.types import Rollout, ScoredBatch, SkippedStep, StepStats, TrainBatch

Batch = TypeVar("Batch", bound=TrainBatch)
MOST_NAMED = 5
"""Samples that a message names; of more it says how many there are."""


@dataclass(frozen=True)
class Samples:
    """The rows of one iteration's batch. ``when`` names the iteration, ``name`` a row."""

    when: str
    name: Callable[[int], str]

    def finite(self, scored: ScoredBatch) -> ScoredBatch:
        """The batch as it is.

        Raises:
            TrainingDiverged: a log-prob, a value or a reward is NaN or infinite.
        """
        for role, value in scored.scores.items():
            self._check(f"score of {role}", value, scored.tokens.response_mask)
        return scored

    def finite_targets(self, batch: Batch) -> Batch:
        """The batch as it is.

        Raises:
            TrainingDiverged: an advantage, or whatever else the loss reads, is NaN or infinite.
        """
        for field in dataclasses.fields(batch):
            value = getattr(batch, field.name)
            if isinstance(value, Tensor):
                self._check(field.name, value, batch.tokens.response_mask)
        return batch

    def skipped(self, stats: StepStats) -> Iterator[str]:
        """A line for each optimizer step that was left out.

        Raises:
            TrainingDiverged: it was one too many in a row.
        """
        for step in stats.skipped:
            if stats.diverged and step == stats.skipped[-1]:
                raise TrainingDiverged(
                    f"{self._told(step)}; more than train.max_skipped_steps in a row, "
                    "no weight was changed by them"
                )
            yield f"left out: {self._told(step)}"

    def _told(self, step: SkippedStep) -> str:
        rows = f" ({self._names(step.rows)})" if step.rows else ""
        return f"{self.when}, {step.area} optimizer step {step.step + 1}: {step.problem}{rows}"

    def _check(self, what: str, value: Tensor, mask: Tensor) -> None:
        bad = ~value.isfinite()
        if value.shape == mask.shape:
            bad &= mask
        if not bad.any():
            return
        rows = bad.flatten(1).any(-1) if bad.ndim > 1 else bad
        raise TrainingDiverged(
            f"{self.when}: {what} is {value[bad][0].item()}, nothing was trained on it "
            f"({self._names(rows.nonzero().flatten().tolist())})"
        )

    def _names(self, rows: Sequence[int]) -> str:
        named = ", ".join(self.name(row) for row in rows[:MOST_NAMED])
        more = len(rows) - MOST_NAMED
        return f"{named} and {more} more" if more > 0 else named


def sampled(iteration: int, rollouts: Sequence[Rollout]) -> Samples:
    """Of a batch whose row i holds ``rollouts[i]``."""

    def name(row: int) -> str:
        return f"prompt {rollouts[row].prompt.id} sample {rollouts[row].sample_index}"

    return Samples(f"iteration {iteration}", name)


def stored(step: int) -> Samples:
    """Of the stored rows that a step draws."""
    return Samples(f"step {step}", "row {}".format)
