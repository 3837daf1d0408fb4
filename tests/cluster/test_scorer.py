"""Rewards of several sources combined on the driver: no actor is needed for texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from local_group import BigramRank, FrozenReplica, bigram, bigram_logprobs, scorers, trainers

from rto.cluster.scorer import ClusterScorer, RewardSources, TextReward
from rto.data.loaders.rated import with_unrelated_responses
from rto.errors import RewardProtocolError
from rto.types import Prompt, Role, Rollout, collate, logprob_array, token_array

REWARD = frozenset({Role.REWARD})
ENDS = {4: "</s>", 5: "<|end|>"}


def rollout(index: int, text: str, *, finished: bool, label: str | None = None) -> Rollout:
    prompt = Prompt(id=index, token_ids=(1, 2), text=f"ask{index} ", label=label)
    ids, logprobs = token_array((3, 4)), logprob_array((-1.0, -1.0))
    return Rollout(prompt, 0, ids, logprobs, text, finished, policy_version=0, seed=0)


ROLLOUTS = [rollout(0, "a", finished=True, label="L"), rollout(1, "bb", finished=False)]


def score(sources: RewardSources, rollouts: Sequence[Rollout] = ROLLOUTS) -> list[float]:
    tokens = collate(rollouts, pad_token_id=0)
    return ClusterScorer(rewards=sources).score(tokens, rollouts, REWARD)[Role.REWARD].tolist()


def always(*values: float) -> TextReward:
    return lambda queries, prompts, labels: list(values)


def test_a_text_reward_reads_query_prompt_and_label() -> None:
    seen: list[tuple[list[str], list[str], list[str]]] = []

    def reward(queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
        seen.append((queries, prompts, labels))
        return [1.0, 2.0]

    sources = RewardSources(texts=[("f", reward)], weights=[1.0], ends=ENDS)
    assert score(sources) == [1, 2]
    # Only the finished response is closed by an EoS.
    assert seen == [(["ask0 a</s>", "ask1 bb"], ["ask0 ", "ask1 "], ["L", ""])]


def test_a_query_is_closed_by_the_stop_token_that_ended_its_response() -> None:
    seen: list[str] = []

    def reward(queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
        seen.extend(queries)
        return [0.0]

    (first, *_) = ROLLOUTS
    other = replace(first, token_ids=token_array((3, 5)))
    score(RewardSources(texts=[("f", reward)], weights=[1.0], ends=ENDS), [other])
    assert seen == ["ask0 a<|end|>"]


def test_sources_add_up_with_their_weights() -> None:
    sources = RewardSources(
        texts=[("f", always(1.0, 2.0)), ("g", always(10.0, -10.0))],
        weights=[2.0, 0.5],
        ends=ENDS,
    )
    assert score(sources) == [2 * 1 + 0.5 * 10, 2 * 2 - 0.5 * 10]


def test_a_source_that_is_not_finite_is_named() -> None:
    sources = RewardSources(texts=[("judge.py", always(1.0, math.nan))], weights=[1.0], ends=ENDS)
    with pytest.raises(RewardProtocolError, match=r"judge\.py"):
        score(sources)


def test_a_role_that_nobody_scores_is_named() -> None:
    tokens = collate(ROLLOUTS, pad_token_id=0)
    with pytest.raises(ValueError, match="nobody scores dpo, policy"):
        ClusterScorer().score(tokens, ROLLOUTS, frozenset({Role.POLICY, Role.DPO}))


def test_stored_rows_without_roles_pass_through() -> None:
    tokens = collate(ROLLOUTS, pad_token_id=0)
    scored = ClusterScorer().score(tokens, ROLLOUTS, frozenset())
    assert dict(scored.scores) == {}
    assert torch.equal(scored.tokens.response_ids, tokens.response_ids)


ROWS = 9
BATCH = [
    replace(
        rollout(i, f"r{i}", finished=False),
        token_ids=token_array(range(1, 2 + i % 5)),
        sampler_logprobs=logprob_array((-0.5,) * (1 + i % 5)),
    )
    for i in range(ROWS)
]
"""Of 1 to 5 tokens."""
POLICY, REFERENCE, DPO = (bigram(seed) for seed in (1, 2, 3))
ALL = frozenset({Role.POLICY, Role.CRITIC, Role.REFERENCE, Role.DPO, Role.REWARD, Role.SAMPLER})


def scorer(actors: int = 1, **changes: Any) -> ClusterScorer:
    tables = {Role.REFERENCE: REFERENCE, Role.DPO: DPO}
    parts: dict[str, Any] = {
        "policy": trainers("policy", *(BigramRank(POLICY) for _ in range(actors))),
        "critic": trainers("critic", *(BigramRank(-POLICY) for _ in range(actors))),
        "frozen": scorers(*(FrozenReplica(tables, (1.0, 10.0)) for _ in range(actors))),
        "rewards": RewardSources(
            normalise=[(4.0, 2.0), (-1.0, 0.5)],
            texts=[("f", always(*range(ROWS)))],
            weights=[1.0, 3.0, 100.0],
            model_names=["a", "b"],
            ends=ENDS,
        ),
    }
    return ClusterScorer(**{**parts, **changes})


@pytest.mark.parametrize("actors", [1, 2, 4])
def test_scores_are_those_of_each_row_alone_whatever_the_actors(actors: int) -> None:
    """A row of token ids 1 to n has the sum n (n + 1) / 2: the models say that and ten times that.
    Less 4 over 2, and plus 1 over a half; weighted 1 and 3, and 100 times the function's number."""
    tokens = collate(BATCH, pad_token_id=0)
    made = scorer(actors)
    scored = made.score(tokens, BATCH, ALL)
    assert scored.scores.keys() == ALL
    for i, each in enumerate(BATCH):
        n = len(each.token_ids)
        alone = collate([each], pad_token_id=0)
        for role, table in (
            (Role.POLICY, POLICY),
            (Role.CRITIC, -POLICY),
            (Role.REFERENCE, REFERENCE),
            (Role.DPO, DPO),
        ):
            assert torch.equal(scored[role][i, :n], bigram_logprobs(table, alone)[0])
            assert not scored[role][i, n:].any()
        total = n * (n + 1) / 2
        expected = (total - 4) / 2 + 3 * (10 * total + 1) / 0.5 + 100 * i
        assert float(scored[Role.REWARD][i]) == pytest.approx(expected)
    assert torch.equal(scored[Role.SAMPLER], tokens.sampler_logprobs)
    for group in (made.policy, made.critic, made.frozen):
        assert group is not None
        replicas: list[Any] = [*group.group.actors]
        seen = [batch for replica in replicas for batch in replica.seen]
        assert sum(len(batch) for batch in seen) == ROWS
        assert all(batch.response_mask.any(0).all() for batch in seen), "each is trimmed"


def test_every_rank_gets_a_row_where_there_are_fewer_rows_than_ranks() -> None:
    """Ranks of a sharded model forward together: the third repeats row 0, which changes nothing."""
    tokens = collate(BATCH[:2], pad_token_id=0)
    made = scorer(3)
    scored = made.score(tokens, BATCH[:2], frozenset({Role.POLICY}))
    assert torch.equal(scored[Role.POLICY], bigram_logprobs(POLICY, tokens))
    assert made.policy is not None
    assert [len(actor.seen[0]) for actor in made.policy.group.actors] == [1, 1, 1]


def test_only_what_is_asked_for_is_scored() -> None:
    made = scorer()
    tokens = collate(BATCH, pad_token_id=0)
    assert made.score(tokens, BATCH, frozenset({Role.POLICY})).scores.keys() == {Role.POLICY}
    for group, calls in ((made.policy, 1), (made.critic, 0), (made.frozen, 0)):
        assert group is not None
        assert len(group.group.actors[0].seen) == calls


def test_without_reward_models_the_frozen_policies_are_scored_all_the_same() -> None:
    sources = RewardSources(texts=[("f", always(*range(ROWS)))], weights=[2.0], ends=ENDS)
    made = scorer(rewards=sources)
    tokens = collate(BATCH, pad_token_id=0)
    scored = made.score(tokens, BATCH, frozenset({Role.REFERENCE, Role.REWARD}))
    assert scored[Role.REWARD].tolist() == [2.0 * i for i in range(ROWS)]
    assert torch.equal(scored[Role.REFERENCE], bigram_logprobs(REFERENCE, tokens))
    only = made.score(tokens, BATCH, REWARD)
    assert only.scores.keys() == REWARD
    assert made.frozen is not None
    assert len(made.frozen.group.actors[0].seen) == 1


def test_an_unrelated_response_is_scored_by_how_much_the_policy_prefers_it() -> None:
    """log pi - log pi_ref, summed over the response to the next prompt."""
    tokens = collate(BATCH, pad_token_id=0)
    scored = scorer(2).score(tokens, BATCH, frozenset({Role.UNRELATED}))
    shuffled = with_unrelated_responses(tokens)
    ratio = bigram_logprobs(POLICY, shuffled) - bigram_logprobs(REFERENCE, shuffled)
    torch.testing.assert_close(scored[Role.UNRELATED], ratio.sum(-1))
    assert not torch.equal(shuffled.response_ids, tokens.response_ids)


@dataclass
class Memory:
    kept: dict[str, list[float]] = field(default_factory=dict)

    def recall(self, source: str, rollouts: Sequence[Rollout]) -> list[float] | None:
        return self.kept.get(source)

    def keep(
        self, source: str, rollouts: Sequence[Rollout], rewards: Sequence[float | None]
    ) -> None:
        assert source not in self.kept
        self.kept[source] = [float(reward or 0) for reward in rewards]


def test_what_a_source_said_before_is_not_asked_again() -> None:
    """Raw numbers are kept: weights and constants act on them."""

    def refuses(queries: list[str], prompts: list[str], labels: list[str]) -> list[float]:
        raise AssertionError("asked again")

    tokens, memory = collate(BATCH, pad_token_id=0), Memory()
    asked = frozenset({Role.REWARD, Role.REFERENCE})
    first = scorer(kept=memory).score(tokens, BATCH, asked)
    (function,) = memory.kept.keys() - {"a", "b"}
    assert function.startswith("0 ")
    memory.kept[f"0 {refuses}"] = memory.kept.pop(function)
    again = scorer(kept=memory)
    again = replace(again, rewards=replace(again.rewards, texts=[("f", refuses)]))
    second = again.score(tokens, BATCH, asked)
    assert torch.equal(second[Role.REWARD], first[Role.REWARD])
    assert torch.equal(second[Role.REFERENCE], first[Role.REFERENCE])
    again.score(tokens, BATCH, REWARD)
    assert again.frozen is not None
    assert len(again.frozen.group.actors[0].seen) == 1, "for the reference alone"


def test_models_are_asked_where_one_of_them_is_not_known() -> None:
    tokens, memory = collate(BATCH, pad_token_id=0), Memory()
    first = scorer(kept=memory).score(tokens, BATCH, REWARD)
    del memory.kept["b"]
    memory.keep = lambda *given: None  # pyright: ignore[reportAttributeAccessIssue]
    again = scorer(kept=memory)
    assert torch.equal(again.score(tokens, BATCH, REWARD)[Role.REWARD], first[Role.REWARD])
    assert again.frozen is not None
    assert len(again.frozen.group.actors[0].seen) == 1


def test_a_prompt_without_a_reward_is_in_no_score_and_the_others_are_as_ever() -> None:
    rows = [replace(row, prompt=replace(row.prompt, id=i // 2)) for i, row in enumerate(BATCH[:8])]
    tokens = collate(rows, pad_token_id=0)
    texts: list[float | None] = [0.5, None, *range(2, 8)]
    made = scorer()
    sources = replace(made.rewards, texts=[("f", always(*range(8)))])
    lossy = replace(made.rewards, texts=[("f", lambda q, p, y: texts)], rows_per_step=2)
    expected = scorer(rewards=sources).score(tokens, rows, ALL).take(range(2, 8))
    got = scorer(rewards=lossy).score(tokens, rows, ALL)
    assert got.tokens.group.tolist() == [1, 1, 2, 2, 3, 3]
    assert got.scores.keys() == expected.scores.keys()
    for role, scores in expected.scores.items():
        assert torch.equal(got[role], scores), role
