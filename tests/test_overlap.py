"""Draws beside the loop, on parts that wait until they are told to go on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from rto.overlap import TRAINED, Draws
from rto.types import (
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    TokenBatch,
    logprob_array,
    token_array,
)

WAIT = 60.0


def response(prompt: Prompt, version: int) -> Rollout:
    """One token: the number of its prompt."""
    ids, logprobs = token_array([prompt.id]), logprob_array([-1.0])
    return Rollout(prompt, 0, ids, logprobs, "", True, version, 0)


@dataclass
class Parts:
    """A generator and a scorer. ``hold`` keeps iterations from being sampled, ``keep`` their
    responses from being scored."""

    hold: dict[int, threading.Event] = field(default_factory=dict)
    keep: dict[int, threading.Event] = field(default_factory=dict)
    asked: list[frozenset[Role]] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def generate(
        self, prompts: Sequence[Prompt], policy_version: int, iteration: int
    ) -> list[Rollout]:
        self.threads.add(threading.current_thread().name)
        if iteration in self.hold:
            assert self.hold[iteration].wait(WAIT)
        self.sampled.append(iteration)
        return [response(p, policy_version) for p in prompts]

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        self.asked.append(roles)
        number = rollouts[0].prompt.id
        if number in self.keep:
            assert self.keep[number].wait(WAIT)
        return ScoredBatch(tokens, {Role.REWARD: torch.tensor([float(number)])})


def draws(parts: Parts, *roles: Role) -> Draws:
    return Draws(parts, parts, roles=frozenset(roles), pad_token_id=0)


def prompts(iteration: int) -> list[Prompt]:
    return [Prompt(iteration, (1, 2), "")]


def test_draws_come_back_in_order_with_their_scores() -> None:
    parts = Parts()
    with draws(parts, Role.REWARD, Role.REFERENCE, *TRAINED) as started:
        for iteration in (3, 4):
            started.start(iteration, prompts(iteration), version=7)
        assert len(started) == 2
        for iteration in (3, 4):
            draw = started.next()
            rollouts, tokens = draw.sampled()
            assert [(r.prompt.id, r.policy_version) for r in rollouts] == [(iteration, 7)]
            assert tokens.response_ids.tolist() == [[iteration]]
            assert draw.scored()[Role.REWARD].tolist() == [iteration]
    assert len(started) == 0
    assert parts.asked == [frozenset({Role.REWARD, Role.REFERENCE})] * 2


def test_a_draw_is_sampled_while_the_one_before_is_scored() -> None:
    parts = Parts(keep={0: threading.Event()})
    with draws(parts, Role.REWARD) as started:
        for iteration in (0, 1):
            started.start(iteration, prompts(iteration), version=0)
        assert [[r.prompt.id for r in each] for each in started.sampled()] == [[0], [1]]
        assert not started.next().scoring.done()
        parts.keep[0].set()
        assert started.next().scored()[Role.REWARD].tolist() == [1]


def test_draws_are_sampled_one_after_the_other() -> None:
    parts = Parts(hold={0: threading.Event()})
    with draws(parts, Role.REWARD) as started:
        for iteration in (0, 1):
            started.start(iteration, prompts(iteration), version=0)
        assert not started.next().sampling.done()
        parts.hold[0].set()
        started.next().sampled()
    assert parts.sampled == [0, 1]
    assert len(parts.threads) == 1
    assert threading.current_thread().name not in parts.threads


def test_a_restored_draw_is_scored_again_and_not_sampled() -> None:
    parts = Parts()
    with draws(parts, Role.REWARD) as started:
        started.restore([response(prompts(8)[0], 2)])
        draw = started.next()
        assert draw.scored()[Role.REWARD].tolist() == [8]
        assert [r.policy_version for r in draw.sampled()[0]] == [2]
    assert parts.sampled == []


def test_an_error_of_sampling_is_raised_by_whoever_waits() -> None:
    class Broken(Parts):
        def generate(
            self, prompts: Sequence[Prompt], policy_version: int, iteration: int
        ) -> list[Rollout]:
            raise RuntimeError("engine is gone")

    started = draws(Broken(), Role.REWARD)
    started.start(0, prompts(0), version=0)
    with pytest.raises(RuntimeError, match="engine is gone"):
        started.sampled()
    with pytest.raises(RuntimeError, match="engine is gone"):
        started.next().scored()


def test_a_loop_that_fails_does_not_wait_for_what_still_runs() -> None:
    parts = Parts(hold={0: threading.Event()})
    started = draws(parts, Role.REWARD)

    def failing() -> None:
        with started:
            started.start(0, prompts(0), version=0)
            started.start(1, prompts(1), version=0)
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        failing()
    parts.hold[0].set()
    assert started.next().sampled()[0]
    assert started.next().sampling.cancelled()


def test_all_scores_of_a_draw_join_and_what_one_is_missing_in_goes() -> None:
    class Lossy(Parts):
        def score(
            self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
        ) -> ScoredBatch:
            scored = ScoredBatch(tokens, {Role.REWARD: torch.tensor([5.0, 6.0, 7.0])})
            return scored.take([0, 2])

    with draws(Lossy(), Role.REWARD) as started:
        started.start(0, [Prompt(i, (1, 2), "") for i in (5, 6, 7)], version=0)
        draw = started.next()
        values = ScoredBatch(draw.sampled()[1], {Role.CRITIC: torch.tensor([[0.5], [0.6], [0.7]])})
        rollouts, scored = draw.joined(values)
    assert [rollout.prompt.id for rollout in rollouts] == [5, 7]
    assert scored.tokens.response_ids.tolist() == [[5], [7]]
    assert scored[Role.REWARD].tolist() == [5.0, 7.0]
    assert torch.equal(scored[Role.CRITIC], torch.tensor([[0.5], [0.7]]))
