"""Updates planned on the driver: what every rank is sent, and what is made of its answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from local_group import trainers
from token_rows import token_batch

from rto.cluster.actors import TrainerActor
from rto.cluster.learner import ClusterLearner, UpdatePlan
from rto.data.examples import Example
from rto.methods.ppo import PPO
from rto.methods.preference import DPO
from rto.methods.sft import SFT
from rto.protocols import Method
from rto.training.learner import Objective
from rto.training.pretrain_mix import PretrainMix
from rto.types import LossNorm, SkippedStep, StepStats, TrainBatch

RESPONSES = [[10, *[3] * i, 2] for i in range(8)]
"""Of 2 to 9 tokens."""


@dataclass
class Rank(TrainerActor):
    """Answers with its name and the number of its update; its scores are the rows' first tokens
    plus their place in the response."""

    area: str
    reads_packed: bool = False
    updates: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    leaves_out: bool = False
    """The last row of its first step, which it names; of the critic its second step, at the end."""

    def packs(self) -> bool:
        self.asked += 1
        return self.reads_packed

    def update(
        self,
        method: Method,
        batch: TrainBatch,
        steps: list[list[list[int]]],
        norms: list[LossNorm],
        extra: Objective | None = None,
        single_step: bool = False,
    ) -> StepStats:
        self.updates.append(
            {"method": method, "batch": batch, "steps": steps, "norms": norms, "extra": extra,
             "single_step": single_step}
        )  # fmt: skip
        ids = batch.tokens.response_ids
        logprobs = batch.tokens.prompt_ids.float() + 0.5 * (ids > 0) if single_step else None
        metrics = {f"{self.area}/loss": float(len(self.updates)), "shared/last": 1.0}
        policy = self.area == "policy"
        last = (steps[0][0][-1],) if policy else ()
        skipped = SkippedStep(self.area, 0 if policy else 1, "loss is nan", last)
        return StepStats(
            metrics,
            len(steps),
            tokens=7,
            policy_logprobs=logprobs,
            skipped=(skipped,) if self.leaves_out else (),
            diverged=self.leaves_out and not policy,
        )


def batch(count: int = 8) -> TrainBatch:
    """Row i answers prompt 100 + i, two rows a group."""
    prompts = [[100 + i] for i in range(count)]
    return TrainBatch(
        token_batch(prompts, RESPONSES[:count], groups=[i // 2 for i in range(count)])
    )


def plan(**changes: Any) -> UpdatePlan:
    common: dict[str, Any] = {
        "batch_size": 4, "max_tokens": 40, "max_sequences": None, "epochs": 1, "seed": 3,
    }  # fmt: skip
    return UpdatePlan(**{**common, **changes})


def learner(
    *,
    ranks: int = 2,
    critic: bool = False,
    packs: Sequence[bool] = (False, False),
    shared_by: int = 1,
    **changes: Any,
) -> ClusterLearner:
    settings = {name: changes.pop(name) for name in ("freezing_steps", "ptx") if name in changes}
    several = [Rank("policy", packed) for packed in packs[:ranks]]
    policy = trainers("policy", *several, shared_by=shared_by)
    values = trainers("critic", Rank("critic")) if critic else None
    return ClusterLearner(policy, values, plan(**changes), **settings)


def sent(made: ClusterLearner, group: str = "policy", update: int = -1) -> list[dict[str, Any]]:
    return [rank.updates[update] for rank in made.groups[group].group.actors]


def rows_of(told: dict[str, Any]) -> list[list[list[int]]]:
    """The rows of the whole batch in each micro-batch of each step, by their prompts."""
    prompts = told["batch"].tokens.prompt_ids[:, -1].tolist()
    return [[[prompts[i] - 100 for i in micro] for micro in step] for step in told["steps"]]


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_row_is_trained_on_once_in_every_epoch(epochs: int) -> None:
    made = learner(epochs=epochs)
    stats = made.update(SFT(), batch())
    told = [rows_of(each) for each in sent(made)]
    seen = Counter(row for rank in told for step in rank for micro in step for row in micro)
    assert seen == dict.fromkeys(range(8), epochs)
    assert stats.optimizer_steps == 2 * epochs
    assert all(len(rank) == 2 * epochs for rank in told)
    steps = [
        {row for rank in told for micro in rank[i] for row in micro} for i in range(2 * epochs)
    ]
    assert all(len(step) == 4 for step in steps)
    if epochs > 1:
        assert len({frozenset(step) for step in steps}) > 2, "each epoch has an order of its own"


def test_the_denominators_are_those_of_all_ranks() -> None:
    made = learner()
    made.update(SFT(), batch())
    first, second = sent(made)
    assert first["norms"] == second["norms"]
    for step, norm in enumerate(first["norms"]):
        rows = [row for told in (first, second) for micro in rows_of(told)[step] for row in micro]
        tokens = sum(len(RESPONSES[row]) for row in rows)
        assert norm == LossNorm(tokens=tokens, sequences=4, groups=2)


def test_without_a_batch_size_a_batch_is_one_step() -> None:
    made = learner(batch_size=None)
    assert made.update(SFT(), batch()).optimizer_steps == 1


def test_the_order_of_the_rows_changes_with_the_update_and_is_that_of_its_number() -> None:
    made = learner()
    for _ in range(3):
        made.update(SFT(), batch())
    assert made.updates == 3
    orders = [str([rows_of(each) for each in sent(made, update=i)]) for i in range(3)]
    for number, order in enumerate(orders):
        resumed = learner()
        resumed.go_on(number)
        resumed.update(SFT(), batch())
        assert order == str([rows_of(each) for each in sent(resumed)])
    assert len(set(orders)) > 1
    other = learner(seed=4)
    other.update(SFT(), batch())
    assert str([rows_of(each) for each in sent(other)]) != orders[0]


def test_metrics_of_policy_and_critic_stand_together_and_counts_are_the_policys() -> None:
    made = learner(critic=True)
    stats = made.update(PPO(), batch())
    assert stats.metrics == {
        "policy/loss": 1.0, "critic/loss": 1.0, "shared/last": 1.0, "response/trained": 8,
    }  # fmt: skip
    assert (stats.optimizer_steps, stats.tokens) == (2, 7)
    assert list(made.groups) == ["policy", "critic"]
    assert list(learner().groups) == ["policy"]
    (values,) = sent(made, "critic")
    assert sorted(row for step in rows_of(values) for micro in step for row in micro) == [*range(8)]


def test_a_frozen_policy_waits_while_the_critic_learns() -> None:
    made = learner(critic=True, freezing_steps=2)
    trained = [made.update(PPO(), batch()).metrics["response/trained"] for _ in range(3)]
    assert trained == [0, 0, 8]
    assert [len(rank.updates) for rank in made.policy.group.actors] == [1, 1]
    assert made.critic is not None
    assert len(made.critic.group.actors[0].updates) == 3


def test_without_a_critic_no_policy_is_frozen() -> None:
    made = learner(freezing_steps=2)
    assert made.update(SFT(), batch()).metrics["response/trained"] == 8


def test_scores_of_a_single_step_come_back_in_the_order_of_the_rows() -> None:
    """Row i scores 100 + i, and half of one more where it has a token. The ranks' rows differ."""
    made = learner(batch_size=None, single_step=True, critic=True)
    assert made.single_step
    given = batch()
    stats = made.update(PPO(), given)
    expected = given.tokens.prompt_ids.float() + 0.5 * (given.tokens.response_ids > 0)
    assert stats.policy_logprobs is not None
    assert torch.equal(stats.policy_logprobs, expected)
    assert [told["single_step"] for told in sent(made)] == [True] * 2
    assert [told["single_step"] for told in sent(made, "critic")] == [False]
    many = learner(single_step=False)
    assert not many.single_step
    assert many.update(SFT(), given).policy_logprobs is None
    assert [told["single_step"] for told in sent(many)] == [False] * 2


@pytest.mark.parametrize(
    ("critic", "freezing", "scores"),
    [(False, 5, True), (True, 0, True), (True, -1, True), (True, 5, False)],
)
def test_a_policy_that_may_be_frozen_is_scored_before_the_update(
    critic: bool, freezing: int, scores: bool
) -> None:
    made = learner(single_step=True, critic=critic, freezing_steps=freezing)
    assert made.single_step is scores


def test_a_model_reads_packed_rows_where_all_its_ranks_do_and_is_asked_once() -> None:
    """8 rows of 3 to 10 tokens: 52 packed, 80 as long as the longest. Of 60 a forward, or 30 on
    each of two ranks, that is one forward or more."""
    for packs, max_tokens, one in (
        ((True,), 60, True),
        ((False,), 60, False),
        ((True, True), 30, True),
        ((True, False), 30, False),
    ):
        made = learner(ranks=len(packs), packs=packs, batch_size=None, max_tokens=max_tokens)
        for _ in range(2):
            made.update(SFT(), batch())
        assert (len(sent(made)[0]["steps"][0]) == 1) is one
        assert [rank.asked for rank in made.policy.group.actors] == [1] * len(packs)


def test_ranks_that_share_rows_get_the_same_ones_and_room_for_more() -> None:
    """Four ranks, two and two: two parts of 8 rows of 3 to 10 tokens, 26 each when packed. That is
    one forward where two ranks of 20 tokens share it, and two of one rank."""
    rows = [(Example((), (50 + i, 2), finished=True),) for i in range(16)]
    mix = PretrainMix(rows, coef=0.5, pad_token_id=0, seed=1)
    sizes: dict[str, Any] = {"batch_size": 8, "max_tokens": 20}
    made = learner(ranks=4, packs=[True] * 4, shared_by=2, ptx=mix, **sizes)
    made.update(SFT(), batch())
    first, second, third, fourth = (rows_of(each) for each in sent(made))
    assert (first, third) == (second, fourth)
    seen = Counter(row for part in (first, third) for step in part for m in step for row in m)
    assert seen == dict.fromkeys(range(8), 1)
    assert all(len(step) == 1 for step in first)
    texts = [told["extra"].batch.tokens.response_ids[:, 0].tolist() for told in sent(made)]
    assert (texts[0], texts[2]) == (texts[1], texts[3])
    assert len({*texts[0], *texts[2]}) == 8
    alone = learner(ranks=2, packs=[True] * 2, **sizes)
    alone.update(SFT(), batch())
    assert all(len(step) == 2 for each in sent(alone) for step in rows_of(each))


def test_scores_of_a_single_step_are_taken_from_one_of_those_that_share_rows() -> None:
    given = batch()
    made = learner(ranks=4, packs=[True] * 4, shared_by=2, batch_size=None, single_step=True)
    stats = made.update(SFT(), given)
    expected = given.tokens.prompt_ids.float() + 0.5 * (given.tokens.response_ids > 0)
    assert stats.policy_logprobs is not None
    assert torch.equal(stats.policy_logprobs, expected)


def test_a_forward_holds_no_more_rows_than_told() -> None:
    made = learner(max_sequences=1)
    made.update(SFT(), batch())
    micros = [micro for told in sent(made) for step in rows_of(told) for micro in step]
    assert {len(micro) for micro in micros} == {1}


def test_the_rows_of_a_group_share_a_forward_where_the_loss_compares_them() -> None:
    """Rows i and i + 4 are a pair; a forward of 20 tokens has room for any two rows."""
    tokens = token_batch([[100 + i] for i in range(8)], RESPONSES, groups=[i % 4 for i in range(8)])
    made = learner(ranks=1, max_tokens=20)
    made.update(DPO(), TrainBatch(tokens))
    micros = [sorted(micro) for step in rows_of(sent(made)[0]) for micro in step]
    assert sorted(micros) == [[i, i + 4] for i in range(4)]


def test_text_is_mixed_into_the_policys_steps_and_goes_on_where_it_was() -> None:
    """4 rows a step of two steps, so 8 texts an update; the second update begins with the ninth."""
    rows = [(Example((), (50 + i, 2), finished=True),) for i in range(16)]
    mix = PretrainMix(rows, coef=0.5, pad_token_id=0, seed=1)
    made = learner(critic=True, ptx=mix)
    seen: list[set[int]] = []
    for _ in range(2):
        made.update(PPO(), batch())
        extras = [told["extra"] for told in sent(made)]
        assert [extra.coef for extra in extras] == [0.5] * 2
        assert all(len(extra.steps) == 2 for extra in extras)
        first = [extra.batch.tokens.response_ids[:, 0].tolist() for extra in extras]
        assert len(set(first[0]) | set(first[1])) == 8
        seen.append({*first[0], *first[1]})
    assert seen[0] | seen[1] == set(range(50, 66))
    assert [told["extra"] for told in sent(made, "critic")] == [None]


def test_rows_of_a_step_that_was_left_out_are_those_of_the_whole_batch() -> None:
    made = learner(critic=True)
    for rank in (rank for group in made.groups.values() for rank in group.group.actors):
        vars(rank)["leaves_out"] = True
    stats = made.update(PPO(), batch())
    named = {rows_of(told)[0][0][-1] for told in sent(made)}
    assert len(named) == 2
    assert stats.skipped == (
        SkippedStep("policy", 0, "loss is nan", tuple(sorted(named))),
        SkippedStep("critic", 1, "loss is nan"),
    )
    assert stats.diverged, "the last one is the critic's"
    assert not learner().update(SFT(), batch()).skipped
