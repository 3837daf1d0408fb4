from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from rto.methods.base import PlainMethod
from rto.protocols import Card, Method
from rto.tracking.timing import Timings, covered
from rto.types import (
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    StepStats,
    TokenBatch,
    TrainBatch,
    collate,
    logprob_array,
    token_array,
)


class Clock:
    """Time that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


PROMPT = Prompt(id=0, token_ids=(1, 2, 3), text="p")


class Parts:
    """The parts of the loop: generate takes 4 s, score 1 s, update 3 s, push 2 s, draw 0.5 s."""

    single_step = False

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def draw(self, iteration: int) -> Sequence[Prompt]:
        self.clock.now += 0.5
        return [PROMPT]

    def generate(
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        ids, logprobs = token_array((5,) * 10), logprob_array((0.0,) * 10)
        for part in parts:
            self.clock.now += 4 / len(parts)
            yield [
                Rollout(p, k, ids, logprobs, "", True, policy_version, k)
                for p in part
                for k in range(2)
            ]

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        self.clock.now += 1
        return ScoredBatch(tokens, {role: torch.zeros(len(tokens)) for role in roles})

    def update(self, method: Method, batch: TrainBatch) -> StepStats:
        self.clock.now += 3
        return StepStats(metrics={}, optimizer_steps=1, tokens=60)

    def push(self) -> int:
        self.clock.now += 2
        return 1


class NoTargets(PlainMethod):
    card = Card("none", "none", "none", "rewards", ("online",))

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset({Role.REWARD})

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        return TrainBatch(batch.tokens), {}


def one_iteration(parts: Parts, timings: Timings) -> None:
    prompts = timings.prompts(parts).draw(0)
    (rollouts,) = timings.generator(parts).generate([prompts], 1, 0)
    tokens = collate(rollouts, pad_token_id=0)
    scored = timings.scorer(parts).score(tokens, rollouts, frozenset({Role.REWARD}))
    batch, _ = NoTargets().targets(scored)
    timings.learner(parts).update(NoTargets(), batch)
    timings.sync(parts).push()


def test_metrics_of_an_iteration_from_a_hand_clock() -> None:
    clock = Clock()
    timings = Timings(clock=clock)
    one_iteration(Parts(clock), timings)
    clock.now += 2  # what the loop does outside the stages
    metrics = timings.lap()
    total = 0.5 + 4 + 1 + 3 + 2 + 2
    assert metrics == pytest.approx(
        {
            "time/generate": 4.0,
            "time/score": 1.0,
            "time/update": 3.0,
            "time/sync": 2.0,
            "time/iteration": total,
            "time/other_share": 2.5 / total,
            "rate/generate_tokens_per_s": 20 / 4,
            "rate/score_tokens_per_s": 2 * (3 + 10) / 1,
            "rate/update_tokens_per_s": 60 / 3,
        }
    )


def test_the_push_before_the_first_draw_is_start_up() -> None:
    clock = Clock()
    timings, parts = Timings(clock=clock), Parts(clock)
    timings.sync(parts).push()
    one_iteration(parts, timings)
    assert timings.lap()["time/sync"] == pytest.approx(2.0)


def test_time_between_iterations_belongs_to_the_next_one() -> None:
    clock = Clock()
    timings, parts = Timings(clock=clock), Parts(clock)
    one_iteration(parts, timings)
    timings.lap()
    clock.now += 7  # a checkpoint
    one_iteration(parts, timings)
    metrics = timings.lap()
    assert metrics["time/iteration"] == pytest.approx(17.5)
    assert metrics["time/generate"] == pytest.approx(4.0)


def test_two_calls_of_a_stage_add_up() -> None:
    clock = Clock()
    timings, parts = Timings(clock=clock), Parts(clock)
    (rollouts,) = parts.generate([[PROMPT]], 0, 0)
    batch = TrainBatch(collate(rollouts, pad_token_id=0))
    for _ in range(2):
        timings.learner(parts).update(NoTargets(), batch)
    metrics = timings.lap()
    assert metrics["time/update"] == pytest.approx(6.0)
    assert metrics["rate/update_tokens_per_s"] == pytest.approx(20.0)


def test_a_stage_that_fails_passes_its_error_on() -> None:
    timings = Timings()
    with pytest.raises(RuntimeError, match="boom"), timings.measure("score"):
        raise RuntimeError("boom")
    assert "time/score" in timings.lap()


def test_stages_are_announced_as_they_begin() -> None:
    clock = Clock()
    heard: list[str] = []
    one_iteration(Parts(clock), Timings(clock=clock, on_stage=heard.append))
    assert heard == ["generate", "score", "update", "sync"]


def test_stages_that_run_at_once_are_counted_once() -> None:
    """Sampling for 4 s beside an update of 3 s that begins a second later: 4 s of 6."""
    clock = Clock()
    timings = Timings(clock=clock)
    with timings.measure("generate"):
        clock.now += 1
        with timings.measure("update"):
            clock.now += 3
    clock.now += 2
    metrics = timings.lap()
    assert metrics["time/generate"] == 4
    assert metrics["time/update"] == 3
    assert metrics["time/other_share"] == pytest.approx(2 / 6)


def test_a_stage_that_goes_on_counts_where_it_ends_and_covers_both_iterations() -> None:
    clock = Clock()
    timings = Timings(clock=clock)
    clock.now += 1
    with timings.measure("generate") as stage:
        clock.now += 3
        first = timings.lap()
        clock.now += 2
        stage.tokens += 10
    second = timings.lap()
    assert "time/generate" not in first
    assert first["time/other_share"] == pytest.approx(1 / 4)
    assert second["time/generate"] == 5
    assert second["time/other_share"] == pytest.approx(0)
    assert second["rate/generate_tokens_per_s"] == 2


def test_two_calls_of_a_stage_at_once_are_one_stretch_of_time() -> None:
    clock = Clock()
    timings = Timings(clock=clock)
    with timings.measure("score"):
        clock.now += 1
        with timings.measure("score"):
            clock.now += 1
    assert timings.lap()["time/score"] == 2


def test_tokens_that_two_calls_score_are_counted_once() -> None:
    clock = Clock()
    timings, parts = Timings(clock=clock), Parts(clock)
    (rollouts,) = parts.generate([[PROMPT]], 0, 0)
    tokens = collate(rollouts, pad_token_id=0)
    for roles in ({Role.REWARD, Role.REFERENCE}, {Role.POLICY, Role.CRITIC}):
        timings.scorer(parts).score(tokens, rollouts, frozenset(roles))
    assert timings.lap()["rate/score_tokens_per_s"] == pytest.approx(2 * 13 / 2)


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([(1, 3)], 2),
        ([(4, 5), (1, 3)], 3),
        ([(1, 3), (2, 6)], 5),
        ([(1, 9), (2, 3), (4, 10)], 9),
        ([(3, 1)], 0),
    ],
)
def test_covered_time_by_hand(spans: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spans) == seconds
