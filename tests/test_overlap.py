"""Draws beside the loop, on parts that wait until they are told to go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from rto.overlap import TRAINED, Draws, cut, joined
from rto.types import (
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    TokenBatch,
    collate,
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
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        self.threads.add(threading.current_thread().name)
        for number, part in enumerate(parts, start=1):
            if number == len(parts) and iteration in self.hold:
                assert self.hold[iteration].wait(WAIT)
            yield [response(p, policy_version) for p in part]
        self.sampled.append(iteration)

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        self.asked.append(roles)
        number = rollouts[0].prompt.id
        if number in self.keep:
            assert self.keep[number].wait(WAIT)
        return ScoredBatch(tokens, {Role.REWARD: torch.tensor([float(number)])})


def draws(parts: Parts, *roles: Role, count: int = 1) -> Draws:
    return Draws(parts, parts, roles=frozenset(roles), pad_token_id=0, parts=count)


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
        first = started.next()
        assert not first.scoring[0].done()
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
            self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
        ) -> Iterator[list[Rollout]]:
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
    running, queued = started.next(), started.next()
    assert queued.sampling.cancelled()
    parts.hold[0].set()
    with pytest.raises(RuntimeError, match="after shutdown"):
        running.sampled()


@dataclass
class Ordered(Parts):
    """Samples the last part when all the others are scored; ``order`` says what was done when."""

    order: list[str] = field(default_factory=list)
    scored: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    fails: str = ""

    def generate(
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        for part in parts[:-1]:
            self.order.append(f"sampled {[p.id for p in part]}")
            yield [response(p, policy_version) for p in part]
        for _ in parts[:-1]:
            assert self.scored.acquire(timeout=WAIT)
        self.order.append(f"sampled {[p.id for p in parts[-1]]}")
        yield [response(p, policy_version) for p in parts[-1]]

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        about = f"scored {[r.prompt.id for r in rollouts]}"
        self.order.append(about)
        self.scored.release()
        if about == self.fails:
            raise RuntimeError(f"no reward for {about}")
        return ScoredBatch(
            tokens, {Role.REWARD: torch.tensor([float(r.prompt.id) for r in rollouts])}
        )


FIVE = [Prompt(number, (1, 2), "") for number in range(5)]


def test_a_part_is_scored_before_the_last_response_is_sampled() -> None:
    parts = Ordered()
    with draws(parts, Role.REWARD, count=2) as started:
        started.start(0, FIVE, version=3)
        draw = started.next()
        assert draw.scored()[Role.REWARD].tolist() == [0, 1, 2, 3, 4]
        rollouts, tokens = draw.sampled()
    assert parts.order == [
        "sampled [0, 1]",
        "scored [0, 1]",
        "sampled [2, 3, 4]",
        "scored [2, 3, 4]",
    ]
    assert [r.prompt.id for r in rollouts] == [0, 1, 2, 3, 4]
    assert tokens.group.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fails", ["scored [0, 1]", "scored [2, 3, 4]"])
def test_an_error_in_a_part_is_raised_in_its_own_words(fails: str) -> None:
    with draws(Ordered(fails=fails), Role.REWARD, count=2) as started:
        started.start(0, FIVE, version=3)
        draw = started.next()
        assert len(draw.sampled()[0]) == 5
        with pytest.raises(RuntimeError) as raised:
            draw.scored()
    assert str(raised.value) == f"no reward for {fails}"


def test_a_restored_draw_is_cut_as_it_was_when_it_was_drawn() -> None:
    """Two responses to each prompt: a prompt's are never in two parts."""
    parts = Ordered()
    drawn = [replace(response(p, 2), sample_index=k) for p in FIVE[:3] for k in range(2)]
    with draws(parts, Role.REWARD, count=2) as started:
        started.restore(drawn)
        draw = started.next()
        assert draw.scored()[Role.REWARD].tolist() == [0, 0, 1, 1, 2, 2]
        assert draw.sampled()[0] == drawn
    assert parts.order == ["scored [0, 0]", "scored [1, 1, 2, 2]"]


@pytest.mark.parametrize(
    ("parts", "sizes"), [(1, [5]), (2, [2, 3]), (3, [1, 2, 2]), (5, [1] * 5), (9, [1] * 5)]
)
def test_parts_are_of_equal_size_give_or_take_one_and_in_order(
    parts: int, sizes: list[int]
) -> None:
    found = cut(range(5), parts)
    assert [len(part) for part in found] == sizes
    assert [item for part in found for item in part] == [0, 1, 2, 3, 4]


def test_scores_of_parts_are_those_of_the_whole_draw() -> None:
    """The first part's longest response has one token, the draw's three."""
    texts = [[7], [8], [9, 9, 9]]
    rollouts = [
        replace(response(p, 0), token_ids=token_array(ids), sampler_logprobs=logprob_array(ids))
        for p, ids in zip(FIVE, texts, strict=False)
    ]

    def scored(rows: Sequence[Rollout]) -> ScoredBatch:
        tokens = collate(rows, pad_token_id=0)
        lengths = tokens.response_mask.sum(-1).float()
        return ScoredBatch(tokens, {Role.SAMPLER: tokens.sampler_logprobs, Role.REWARD: lengths})

    whole = scored(rollouts)
    cut_up = joined(whole.tokens, [scored(rollouts[:2]), scored(rollouts[2:])])
    assert cut_up.tokens is whole.tokens
    for role in (Role.SAMPLER, Role.REWARD):
        assert torch.equal(cut_up[role], whole[role])
    assert joined(whole.tokens, [whole]) is whole


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
