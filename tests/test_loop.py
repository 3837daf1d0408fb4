"""The loop against in-process parts that write down what was asked of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from rto.errors import TrainingDiverged
from rto.loop import fit, train
from rto.protocols import Card, Method
from rto.types import (
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    SkippedStep,
    StepStats,
    TokenBatch,
    TrainBatch,
    collate,
    logprob_array,
    token_array,
)

PAD = 9
TOKEN, LOGPROB = token_array((5,)), logprob_array((-1.0,))


@dataclass(frozen=True)
class Counting:
    """A method whose coefficient grows by one with each iteration."""

    coef: float = 0.0
    card: Card = Card("counting", "Counting", "none", "rewards", ("online",))
    roles: frozenset[Role] = frozenset({Role.POLICY, Role.REWARD})
    whole_groups: bool = False
    min_responses: int = 1

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        return TrainBatch(tokens=batch.tokens), {"reward/mean": 1.0, "shared/x": 1.0}

    def adapt(self, metrics: Mapping[str, float]) -> Counting:
        return replace(self, coef=self.coef + metrics["policy/step"])


@dataclass
class Diary:
    """Every part of the loop in one: notes each call with what identifies it."""

    version: int = 0
    single_step: bool = False
    stops_after: int | None = None
    stopped: bool = False
    notes: list[tuple[Any, ...]] = field(default_factory=list)
    sampled: list[TokenBatch] = field(default_factory=list)
    skipped: tuple[SkippedStep, ...] = ()
    diverged: bool = False
    seen: float = -3.0
    """The log-probs that a single step tells of."""
    iterations: list[int] = field(default_factory=list)
    drawn: list[list[list[int]]] = field(default_factory=list)
    """Ids of the prompts whose responses wait, after each iteration."""

    def push(self) -> int:
        self.notes.append(("push",))
        self.version += 1
        return self.version - 1

    def draw(self, iteration: int) -> Sequence[Prompt]:
        self.notes.append(("draw", iteration))
        return [Prompt(id=10 * iteration + i, token_ids=(1,) * (i + 1), text="") for i in range(2)]

    def generate(
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        prompts = [p for part in parts for p in part]
        self.notes.append(("generate", [p.id for p in prompts], policy_version))
        self.iterations.append(iteration)
        return iter(
            [
                [Rollout(p, 0, TOKEN, LOGPROB, "", True, policy_version, 0) for p in part]
                for part in parts
            ]
        )

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        self.notes.append(("score", roles))
        self.sampled.append(tokens)
        shape = tokens.response_ids.shape
        return ScoredBatch(
            tokens,
            {r: torch.zeros(len(tokens) if r == Role.REWARD else shape) for r in roles},
        )

    def update(self, method: Method, batch: TrainBatch) -> StepStats:
        self.notes.append(("update", method))
        seen = torch.full(batch.tokens.response_ids.shape, self.seen)
        logprobs = seen if self.single_step else None
        metrics = {"policy/step": 1.0, "shared/x": 2.0}
        return StepStats(
            metrics,
            1,
            tokens=2,
            policy_logprobs=logprobs,
            skipped=self.skipped,
            diverged=self.diverged,
        )

    def rollouts(self, iteration: int, rollouts: Sequence[Rollout], batch: ScoredBatch) -> None:
        self.notes.append(("rollouts", iteration, len(rollouts)))

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.notes.append(("log", iteration, dict(metrics)))

    def tell(self, line: str) -> None:
        self.notes.append(("tell", line))

    def after(
        self,
        iteration: int,
        method: Method,
        metrics: Mapping[str, float],
        drawn: Sequence[Sequence[Rollout]] = (),
    ) -> None:
        self.notes.append(("after", iteration, method))
        self.drawn.append([[rollout.prompt.id for rollout in each] for each in drawn])
        self.stopped = iteration == self.stops_after

    def run(self, iterations: range, method: Counting = Counting(), **overlap: Any) -> Counting:
        return train(
            method,
            prompts=self,
            generator=self,
            scorer=self,
            learner=self,
            sync=self,
            tracker=self,
            checkpointer=self,
            iterations=iterations,
            pad_token_id=PAD,
            **overlap,
        )

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [note[1:] for note in self.notes if note[0] == kind]


MERGED = {"reward/mean": 1.0, "policy/step": 1.0, "shared/x": 2.0}


def test_an_iteration_is_in_the_papers_order() -> None:
    diary = Diary()
    diary.run(range(1))
    assert [note[0] for note in diary.notes] == [
        "push", "draw", "generate", "score", "score", "update", "push", "rollouts", "log", "after",
    ]  # fmt: skip


def test_each_rollout_is_of_the_version_pushed_last() -> None:
    diary = Diary(version=7)
    diary.run(range(3))
    assert [version for _, version in diary.of("generate")] == [7, 8, 9]


def test_a_resumed_loop_draws_where_it_left_off() -> None:
    whole, first, second = Diary(), Diary(), Diary(version=2)
    whole.run(range(3))
    first.run(range(2))
    second.run(range(2, 3))
    assert first.of("generate") + second.of("generate") == whole.of("generate")
    assert [iteration for iteration, *_ in second.of("log")] == [2]


class Forgetful(Diary):
    """Keeps nothing of a batch; notes for each draw what is left of earlier ones."""

    def __init__(self) -> None:
        super().__init__(single_step=True)
        self.parts: list[weakref.ref[object]] = []
        self.left: list[int] = []

    def generate(
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        self.left.append(sum(part() is not None for part in self.parts))
        return super().generate(parts, policy_version, iteration)

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        scored = super().score(tokens, rollouts, roles)
        self.sampled.clear()
        self.parts += map(weakref.ref, (*rollouts, tokens.response_ids, *scored.scores.values()))
        return scored

    def update(self, method: Method, batch: TrainBatch) -> StepStats:
        stats = super().update(method, batch)
        assert stats.policy_logprobs is not None
        self.parts.append(weakref.ref(stats.policy_logprobs))
        return stats


def test_nothing_of_a_batch_is_held_while_the_next_one_is_sampled() -> None:
    forgetful = Forgetful()
    forgetful.run(range(3))
    assert len(forgetful.parts) > 6
    assert forgetful.left == [0, 0, 0]


def test_no_iterations_push_once_and_change_nothing() -> None:
    diary = Diary()
    assert diary.run(range(2, 2)) == Counting()
    assert diary.notes == [("push",)]


def test_the_method_adapts_between_iterations() -> None:
    diary = Diary()
    assert diary.run(range(3)) == Counting(coef=3)
    assert [method.coef for (method,) in diary.of("update")] == [0, 1, 2]
    assert [method.coef for _, method in diary.of("after")] == [1, 2, 3]


def test_metrics_of_targets_and_update_are_merged() -> None:
    diary = Diary()
    diary.run(range(1))
    ((_, logged),) = diary.of("log")
    assert {name: logged[name] for name in MERGED} == MERGED
    assert logged["response/length"] == 1


def test_the_batch_is_collated_with_the_pad_token_and_scored_for_the_methods_roles() -> None:
    diary = Diary()
    diary.run(range(1))
    assert diary.sampled[0].prompt_ids.tolist() == [[PAD, 1], [1, 1]]
    asked = {roles for (roles,) in diary.of("score")}
    assert asked == {frozenset({Role.POLICY}), frozenset({Role.REWARD, Role.REFERENCE})}


@pytest.mark.parametrize(("roles", "asked"), [({Role.REWARD}, False), ({Role.POLICY}, True)])
def test_where_the_update_scores_the_policy_only_a_method_asks_for_it_before(
    roles: set[Role], asked: bool
) -> None:
    diary = Diary(single_step=True)
    diary.run(range(1), Counting(roles=frozenset(roles)))
    scored = {role for (roles,) in diary.of("score") for role in roles}
    assert (Role.POLICY in scored) is asked
    ((_, logged),) = diary.of("log")
    assert logged["kl/sequence"] == -3.0


def ids(iteration: int) -> list[int]:
    return [10 * iteration, 10 * iteration + 1]


@pytest.mark.parametrize(
    ("lag", "versions"),
    [(0, [0, 1, 2, 3, 4]), (1, [0, 0, 1, 2, 3]), (2, [0, 0, 0, 1, 2]), (9, [0] * 5)],
)
def test_responses_are_of_the_version_that_many_updates_before(
    lag: int, versions: list[int]
) -> None:
    diary = Diary()
    diary.run(range(5), lag=lag)
    assert diary.of("generate") == [(ids(i), version) for i, version in enumerate(versions)]
    assert diary.iterations == [0, 1, 2, 3, 4]
    assert [logged["sampler/lag"] for _, logged in diary.of("log")] == [
        i - version for i, version in enumerate(versions)
    ]


def test_what_waits_to_be_trained_on_is_handed_to_the_checkpoint() -> None:
    diary = Diary()
    diary.run(range(4), lag=2)
    assert diary.drawn == [[ids(1), ids(2)], [ids(2), ids(3)], [ids(3)], []]
    alone = Diary()
    alone.run(range(2))
    assert alone.drawn == [[], []]


def test_a_run_that_goes_on_takes_up_what_was_drawn() -> None:
    whole, second = Diary(), Diary(version=2)
    whole.run(range(5), lag=2)
    waiting = [
        [Rollout(Prompt(i, (1,), ""), 0, TOKEN, LOGPROB, "", True, 0, 0) for i in ids(iteration)]
        for iteration in (2, 3)
    ]
    second.run(range(2, 5), lag=2, ahead=waiting)
    assert second.of("generate") == whole.of("generate")[4:]
    assert second.drawn == whole.drawn[2:]
    assert second.of("log")[0][1]["sampler/lag"] == 2


def test_sampling_goes_on_while_the_policy_is_trained() -> None:
    """The update waits for a sample that only a later draw makes."""
    sampled = threading.Event()

    class Ahead(Diary):
        def generate(
            self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
        ) -> Iterator[list[Rollout]]:
            found = super().generate(parts, policy_version, iteration)
            if iteration == 1:
                sampled.set()
            return found

        def update(self, method: Method, batch: TrainBatch) -> StepStats:
            assert sampled.wait(timeout=60)
            return super().update(method, batch)

    diary = Ahead()
    diary.run(range(2), lag=1)
    assert len(diary.of("update")) == 2


def test_no_weights_are_pushed_while_an_engine_samples() -> None:
    pushed = threading.Event()

    class Slow(Diary):
        def push(self) -> int:
            version = super().push()
            if version == 1:
                pushed.set()
            return version

        def generate(
            self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
        ) -> Iterator[list[Rollout]]:
            if iteration == 1:
                assert not pushed.wait(timeout=0.3)
            return super().generate(parts, policy_version, iteration)

    Slow().run(range(2), lag=1)


@pytest.mark.parametrize("lag", [0, 1])
def test_what_goes_wrong_beside_the_loop_ends_it(lag: int) -> None:
    class Broken(Diary):
        def generate(
            self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
        ) -> Iterator[list[Rollout]]:
            if iteration == 1:
                raise RuntimeError("no such GPU")
            return super().generate(parts, policy_version, iteration)

    diary = Broken()
    with pytest.raises(RuntimeError, match="no such GPU"):
        diary.run(range(3), lag=lag)
    assert len(diary.of("push")) == 1 + (lag == 0)


@dataclass(frozen=True)
class Stored:
    """Steps 3 and 4 of stored rows."""

    def __iter__(self) -> Iterator[tuple[int, ScoredBatch]]:
        rollouts = [Rollout(Prompt(0, (1,), ""), 0, TOKEN, LOGPROB, "", True, 0, 0)]
        tokens = collate(rollouts, pad_token_id=PAD)
        for step in (3, 4):
            yield step, ScoredBatch(tokens, {})


@dataclass(frozen=True)
class AfterFour:
    """Held-out rows that are judged after step 4 alone."""

    def after(self, step: int) -> Mapping[str, float]:
        return {"eval/accuracy": 0.5} if step == 4 else {}


def fit_with(diary: Diary) -> Counting:
    return fit(
        Counting(),
        batches=Stored(),
        learner=diary,
        evaluator=AfterFour(),
        tracker=diary,
        checkpointer=diary,
    )


def test_offline_steps_update_evaluate_log_and_keep() -> None:
    diary = Diary()
    assert fit_with(diary) == Counting(coef=2)
    assert [note[0] for note in diary.notes] == ["update", "log", "after"] * 2
    assert diary.of("log") == [(3, MERGED), (4, {**MERGED, "eval/accuracy": 0.5})]
    assert [m.coef for _, m in diary.of("after")] == [1, 2]


def test_offline_steps_end_where_the_checkpointer_says() -> None:
    diary = Diary(stops_after=3)
    assert fit_with(diary) == Counting(coef=1)
    assert [step for step, _ in diary.of("after")] == [3]


def test_an_error_in_the_update_ends_the_loop_before_a_push() -> None:
    class Broken(Diary):
        def update(self, method: Method, batch: TrainBatch) -> StepStats:
            raise RuntimeError("diverged")

    diary = Broken()
    with pytest.raises(RuntimeError, match="diverged"):
        diary.run(range(1))
    assert len(diary.of("push")) == 1
    assert diary.of("after") == []


@dataclass(frozen=True)
class Scored:
    """A step of stored rows whose policy was not scored before the update."""

    def __iter__(self) -> Iterator[tuple[int, ScoredBatch]]:
        ((_, batch), *_) = Stored()
        reference = torch.full(batch.tokens.response_ids.shape, -1.0)
        yield 0, batch.with_scores({Role.REFERENCE: reference, Role.REWARD: torch.ones(1)})


@pytest.mark.parametrize("single_step", [True, False])
def test_stored_rows_are_observed_with_the_log_probs_of_their_update(single_step: bool) -> None:
    """-3 where the reference has -1; nothing where nobody scored the policy."""
    diary = Diary(single_step=single_step)
    fit(
        Counting(),
        batches=Scored(),
        learner=diary,
        evaluator=AfterFour(),
        tracker=diary,
        checkpointer=diary,
    )
    ((_, logged),) = diary.of("log")
    assert logged.get("policy/log_ratio") == (-2.0 if single_step else None)


LEFT_OUT = (SkippedStep("policy", 0, "loss is nan", (1,)),)


def test_a_step_that_was_left_out_is_told_with_its_sample_and_the_run_goes_on() -> None:
    diary = Diary(skipped=LEFT_OUT)
    diary.run(range(2))
    assert diary.of("tell") == [
        ("left out: iteration 0, policy optimizer step 1: loss is nan (prompt 1 sample 0)",),
        ("left out: iteration 1, policy optimizer step 1: loss is nan (prompt 11 sample 0)",),
    ]
    assert len(diary.of("after")) == 2


def test_one_too_many_ends_the_run_before_weights_are_pushed_or_saved() -> None:
    diary = Diary(skipped=LEFT_OUT, diverged=True)
    with pytest.raises(TrainingDiverged, match="prompt 1 sample 0"):
        diary.run(range(2))
    assert [note[0] for note in diary.notes].count("push") == 1
    assert diary.of("after") == diary.of("log") == []


def test_log_probs_of_a_single_step_that_are_not_finite_end_the_run() -> None:
    diary = Diary(single_step=True, seen=float("nan"), skipped=LEFT_OUT)
    with pytest.raises(TrainingDiverged, match="iteration 0: score of policy is nan.*prompt 0"):
        diary.run(range(2))
    assert len(diary.of("tell")) == 1


def test_what_is_not_finite_is_not_trained_on() -> None:
    class Infinite(Diary):
        def score(
            self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
        ) -> ScoredBatch:
            scored = super().score(tokens, rollouts, roles)
            return ScoredBatch(tokens, {r: v + float("inf") for r, v in scored.scores.items()})

    diary = Infinite()
    with pytest.raises(TrainingDiverged, match="iteration 0"):
        diary.run(range(1))
    assert diary.of("update") == []

    @dataclass(frozen=True)
    class Advantages(TrainBatch):
        advantages: torch.Tensor

    class Dividing(Counting):
        def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
            return Advantages(batch.tokens, torch.zeros(len(batch)) / 0), {}

    healthy = Diary()
    with pytest.raises(TrainingDiverged, match="advantages is nan"):
        healthy.run(range(1), Dividing())
    assert healthy.of("update") == []


class Lossy(Diary):
    """Its reward source has nothing for the first prompt of each iteration but the first."""

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        scored = super().score(tokens, rollouts, roles)
        lost = Role.REWARD in roles and rollouts[0].prompt.id > 0
        return scored.take([1]) if lost else scored


def test_a_group_without_a_reward_is_neither_trained_nor_told_and_counted() -> None:
    lossy = Lossy()
    lossy.run(range(2))
    assert lossy.of("rollouts") == [(0, 2), (1, 1)]
    first, second = (metrics for _, metrics in lossy.of("log"))
    assert "reward/dropped_groups" not in first
    assert second["reward/dropped_groups"] == 1
    # drawn = trained + dropped
    assert first["response/num"] == 2 == second["response/num"] + second["reward/dropped_groups"]
