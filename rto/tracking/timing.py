"""Timers of the stages, which wrap the loop's protocol objects so that the loop needs no timers.

Each wrapper has the type of what it wraps. The stages of one iteration are generate, score,
update and sync; the time in which none of them runs (targets, tracking, checkpoints) is
``time/other_share``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rto.overlap import TRAINED
from rto.protocols import Generator, Learner, Method, PromptSource, Scorer, WeightSync
from rto.types import (
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    StepStats,
    TokenBatch,
    TrainBatch,
)


@dataclass
class Stage:
    """When one stage ran in the current iteration, and on how many tokens."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    tokens: int = 0

    @property
    def seconds(self) -> float:
        """Two calls at once count once."""
        return covered(self.spans)


class Timings:
    """The clock of a run. ``on_stage`` hears the name of each stage as it begins.

    The first iteration begins with the first draw: the push before it is start-up. Stages may run
    at once, in several threads; one belongs to the iteration in which it ends.
    """

    def __init__(
        self,
        *,
        on_stage: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._on_stage = on_stage
        self._clock = clock
        self._lock = threading.Lock()
        self._stages: dict[str, Stage] = {}
        self._running: dict[object, float] = {}
        """What runs now -> when it began."""
        self._began = clock()
        self._drawn = False

    @contextmanager
    def measure(self, name: str) -> Iterator[Stage]:
        """Time the block as a part of stage ``name``; the caller adds the tokens it handled."""
        if self._on_stage is not None:
            self._on_stage(name)
        part, start = Stage(), self._clock()
        with self._lock:
            self._running[id(part)] = start
        try:
            yield part
        finally:
            with self._lock:
                del self._running[id(part)]
                stage = self._stages.setdefault(name, Stage())
                stage.spans.append((start, self._clock()))
                stage.tokens += part.tokens

    def drawing(self) -> None:
        """A draw begins; the first one opens the first iteration."""
        if not self._drawn:
            self._drawn = True
            self.lap()

    def lap(self) -> dict[str, float]:
        """Close the iteration: its metrics. What follows belongs to the next one."""
        with self._lock:
            now = self._clock()
            began, self._began = self._began, now
            stages, self._stages = self._stages, {}
            running = [(start, now) for start in self._running.values()]
        total = now - began
        metrics = {f"time/{name}": stage.seconds for name, stage in stages.items()}
        metrics["time/iteration"] = total
        if total > 0:
            spans = [span for stage in stages.values() for span in stage.spans] + running
            busy = covered([(max(start, began), end) for start, end in spans])
            metrics["time/other_share"] = 1 - busy / total
        for name, stage in stages.items():
            if stage.tokens > 0 and stage.seconds > 0:
                metrics[f"rate/{name}_tokens_per_s"] = stage.tokens / stage.seconds
        return metrics

    def prompts(self, inner: PromptSource) -> PromptSource:
        return _TimedPrompts(inner, self)

    def generator(self, inner: Generator) -> Generator:
        return _TimedGenerator(inner, self)

    def scorer(self, inner: Scorer) -> Scorer:
        return _TimedScorer(inner, self)

    def learner(self, inner: Learner) -> Learner:
        return _TimedLearner(inner, self)

    def sync(self, inner: WeightSync) -> WeightSync:
        return _TimedSync(inner, self)


@dataclass(frozen=True)
class _TimedPrompts:
    inner: PromptSource
    timings: Timings

    def draw(self, iteration: int) -> Sequence[Prompt]:
        self.timings.drawing()
        return self.inner.draw(iteration)


@dataclass(frozen=True)
class _TimedGenerator:
    inner: Generator
    timings: Timings

    def generate(
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        with self.timings.measure("generate") as stage:
            for rollouts in self.inner.generate(parts, policy_version, iteration):
                stage.tokens += sum(len(rollout.token_ids) for rollout in rollouts)
                yield rollouts


@dataclass(frozen=True)
class _TimedScorer:
    inner: Scorer
    timings: Timings

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        with self.timings.measure("score") as stage:
            scored = self.inner.score(tokens, rollouts, roles)
            if roles - TRAINED:  # The policy's and the critic's own scores come in another call.
                stage.tokens += int(tokens.lengths.sum())
        return scored


@dataclass(frozen=True)
class _TimedLearner:
    inner: Learner
    timings: Timings

    @property
    def single_step(self) -> bool:
        return self.inner.single_step

    def update(self, method: Method, batch: TrainBatch) -> StepStats:
        with self.timings.measure("update") as stage:
            stats = self.inner.update(method, batch)
            stage.tokens += stats.tokens
        return stats


@dataclass(frozen=True)
class _TimedSync:
    inner: WeightSync
    timings: Timings

    def push(self) -> int:
        with self.timings.measure("sync"):
            return self.inner.push()


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in at least one of the (start, end)."""
    seconds, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        seconds += max(0.0, end - max(start, until))
        until = max(until, end)
    return seconds
