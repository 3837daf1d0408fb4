"""Scores of stored rows: the cache, which row is whose, and unrelated responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stored import stored
from torch import Tensor

from rto.cluster.scorer import ClusterScorer
from rto.data.examples import Example, Rated, collate_groups
from rto.data.loaders.rated import unrelated_rows, with_unrelated_responses
from rto.runs.stored_scores import Reference, StoredScores, _in_order, store
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed
from rto.sections.training import Actor, RolloutSection
from rto.types import Role, Rollout, ScoredBatch, TokenBatch

GROUPS = [
    (Rated((1, 2), (10, 11, 12), True, 1.0), Rated((1, 2), (13,), True, 2.0)),
    (Rated((3,), (14, 15), False, 3.0),),
    (
        Rated((4, 5, 6), (16, 17, 18, 19), True, 4.0),
        Rated((4, 5, 6), (20,), True, 5.0),
        Rated((4, 5, 6), (21, 22), True, 6.0),
    ),
]
ROWS = [row for group in GROUPS for row in group]
STORED = stored(GROUPS)
SCALE = {Role.POLICY: 1.0, Role.REFERENCE: 1000.0, Role.CRITIC: -1.0}


def logprobs(row: Example, role: Role) -> list[float]:
    """What the fake scorer says of a row: told apart by role, prompt and token."""
    return [SCALE[role] * (100 * sum(row.prompt_ids) + token) for token in row.response_ids]


@dataclass(frozen=True)
class FakeScorer(ClusterScorer):
    """Says ``logprobs`` of each row, NaN in the padding, and notes what it was asked."""

    asked: list[tuple[frozenset[Role], int]] = field(default_factory=list)

    def score(self, tokens: TokenBatch, rollouts: object, roles: frozenset[Role]) -> ScoredBatch:
        self.asked.append((roles, len(tokens)))
        prompts = tokens.prompt_ids.masked_fill(~tokens.prompt_mask, 0).sum(-1, keepdim=True)
        said = (100.0 * prompts + tokens.response_ids).masked_fill(~tokens.response_mask, torch.nan)
        return ScoredBatch(tokens, {role: SCALE[role] * said for role in roles})


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    config = RunConfig(
        actor=Actor(model_name_or_path=str(model)),
        data=Data(cache_dir=str(tmp_path / "cache")),
        ds=DeepSpeed(param_dtype="fp32"),
    )
    return Reference(config, FakeScorer(), Role.REFERENCE, 0, progress=lambda *counts: None)


def asked(reference: Reference) -> list[tuple[frozenset[Role], int]]:
    assert isinstance(reference.scorer, FakeScorer)
    return reference.scorer.asked


def score(scores: StoredScores, groups: list[int]) -> ScoredBatch:
    tokens = collate_groups([GROUPS[g] for g in groups], pad_token_id=0)
    return scores(tokens, groups)


def real(batch: ScoredBatch, role: Role) -> list[list[float]]:
    mask = batch.tokens.response_mask
    return [row[kept].tolist() for row, kept in zip(batch[role], mask, strict=True)]


def test_log_probs_come_in_the_order_of_the_rows(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed longest first, two at a time."""
    monkeypatch.setattr("rto.runs.stored_scores.CHUNK", 2)
    found = reference.logprobs(ROWS)[0]
    assert [row.tolist() for row in found] == [logprobs(row, Role.REFERENCE) for row in ROWS]
    assert asked(reference) == [(frozenset({Role.REFERENCE}), 2)] * 3


def test_rows_of_a_prompt_stand_together_longest_first() -> None:
    """Ties by the token ids of the prompt: 2 before 10, and a beginning before the whole."""
    sizes = {(10,): (3, 1), (2,): (3,), (7, 300): (9, 2), (7,): (3,), (7, 3): (3,)}
    rows = [Example(ids, (5,) * size, True) for ids, each in sizes.items() for size in each]
    mixed = [rows[i] for i in (5, 0, 3, 6, 1, 4, 2)]
    order = [mixed[i].prompt_ids for i in _in_order(mixed)]
    assert order == [(7, 300), (7, 300), (2,), (7,), (7, 3), (10,), (10,)]


def test_the_second_time_nobody_is_asked(reference: Reference) -> None:
    first = reference.logprobs(ROWS)[0]
    again = replace(reference, scorer=FakeScorer())
    second = again.logprobs(ROWS)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert (len(asked(reference)), asked(again)) == (1, [])


def test_parts_are_computed_together_and_kept_apart(reference: Reference) -> None:
    """Each in a file of its own, so that only the new one is asked for."""
    others = [Example(row.prompt_ids, (9, *row.response_ids), True) for row in ROWS]
    found = reference.logprobs(ROWS, others)
    for part, rows in zip(found, (ROWS, others), strict=True):
        assert [row.tolist() for row in part] == [logprobs(row, Role.REFERENCE) for row in rows]
    assert asked(reference) == [(frozenset({Role.REFERENCE}), 2 * len(ROWS))]
    again = replace(reference, scorer=FakeScorer())
    more = [Example((1,), (2,), True)]
    kept, new = again.logprobs(others, more)
    assert [row.tolist() for row in kept] == [row.tolist() for row in found[1]]
    assert [row.tolist() for row in new] == [logprobs(more[0], Role.REFERENCE)]
    assert asked(again) == [(frozenset({Role.REFERENCE}), 1)]


def test_other_rows_temperature_or_model_are_computed_anew(
    reference: Reference, tmp_path: Path
) -> None:
    reference.logprobs(ROWS)
    hot = replace(reference.config, rollout=RolloutSection(temperature=0.5))
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = replace(reference.config, actor=Actor(model_name_or_path=str(other)))
    for config, rows in ((reference.config, ROWS[1:]), (hot, ROWS), (elsewhere, ROWS)):
        anew = replace(reference, config=config, scorer=FakeScorer())
        anew.logprobs(rows)
        assert len(asked(anew)) == 1


def test_who_computes_the_reference_decides_the_role(reference: Reference) -> None:
    """The policy, before its first step, is its own reference."""
    by_policy = replace(reference, role=Role.POLICY)
    assert by_policy.logprobs(ROWS)[0][0].tolist() == logprobs(ROWS[0], Role.POLICY)


def make(reference: Reference, *roles: Role, visited: Sequence[int] = (0, 1, 2)) -> StoredScores:
    return store(
        STORED,
        frozenset(roles),
        scorer=reference.scorer,
        reference=reference,
        visited=np.array(visited),
    )


@pytest.mark.parametrize("groups", [[0, 1, 2], [2, 0], [1], [2, 2, 1]])
def test_scores_belong_to_the_groups_that_were_asked_for(
    reference: Reference, groups: list[int]
) -> None:
    scores = make(reference, Role.POLICY, Role.REFERENCE, Role.REWARD, Role.CRITIC)
    batch = score(scores, groups)
    rows = [row for g in groups for row in GROUPS[g]]
    for role in (Role.POLICY, Role.REFERENCE, Role.CRITIC):
        assert real(batch, role) == [logprobs(row, role) for row in rows]
    assert batch[Role.REWARD].tolist() == [row.reward for row in rows]
    assert batch[Role.REFERENCE].shape == batch.tokens.response_mask.shape


def test_while_training_only_what_is_trained_is_asked(reference: Reference) -> None:
    scores = make(reference, Role.POLICY, Role.REFERENCE, Role.REWARD)
    asked(reference).clear()
    score(scores, [1, 2])
    assert asked(reference) == [(frozenset({Role.POLICY}), 4)]
    frozen = make(reference, Role.REFERENCE, Role.REWARD)
    asked(reference).clear()
    score(frozen, [1, 2])
    assert asked(reference) == []


def test_a_short_run_computes_only_the_groups_that_it_visits(reference: Reference) -> None:
    """Groups 2 and 0 have 3 and 2 rows, and as many with unrelated responses."""
    roles = (Role.REFERENCE, Role.UNRELATED)
    scores = make(reference, *roles, visited=[0, 2])
    assert asked(reference) == [(frozenset({Role.REFERENCE}), 5 + 5)]
    batch = score(scores, [2, 0])
    expected = [logprobs(row, Role.REFERENCE) for g in (2, 0) for row in GROUPS[g]]
    assert real(batch, Role.REFERENCE) == expected
    assert batch[Role.UNRELATED].tolist() == pytest.approx(unrelated_by_hand([2, 0]))


def unrelated_by_hand(groups: list[int]) -> list[float]:
    """Sum of log pi - log pi_ref over the mismatched response, row by row."""
    first = {0: 0, 1: 2, 2: 3}
    mismatched = unrelated_rows(STORED, max_len=Data().max_len)
    rows = [mismatched[first[g] + i] for g in groups for i in range(len(GROUPS[g]))]
    return [sum(logprobs(x, Role.POLICY)) - sum(logprobs(x, Role.REFERENCE)) for x in rows]


@pytest.mark.parametrize("groups", [[0, 1, 2], [2, 0], [1]])
def test_unrelated_responses_are_the_data_sets_own_pairs(
    reference: Reference, groups: list[int]
) -> None:
    """One prompt in a batch is enough: the pairs were fixed with the data."""
    batch = score(make(reference, Role.UNRELATED), groups)
    assert batch[Role.UNRELATED].tolist() == pytest.approx(unrelated_by_hand(groups))


def test_the_reference_of_unrelated_responses_is_kept_too(reference: Reference) -> None:
    make(reference, Role.REFERENCE, Role.UNRELATED)
    assert len(asked(reference)) == 1
    again = replace(reference, scorer=FakeScorer())
    scores = make(again, Role.REFERENCE, Role.UNRELATED)
    assert asked(again) == []
    score(scores, [0])
    assert asked(again) == [(frozenset({Role.POLICY}), 2)]


def test_roles_that_stored_rows_cannot_have(reference: Reference) -> None:
    with pytest.raises(ValueError, match="stored rows have no dpo"):
        score(make(reference, Role.DPO), [0])


def test_rows_without_a_reward(reference: Reference) -> None:
    rows = [[Example((1,), (2,), True)]]
    scores = store(
        stored(rows),
        frozenset({Role.REWARD}),
        scorer=reference.scorer,
        reference=reference,
        visited=np.array([0]),
    )
    with pytest.raises(ValueError, match="these rows have no reward"):
        scores(collate_groups(rows, pad_token_id=0), [0])


def texts(ids: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


def test_online_each_prompt_meets_a_response_to_the_next() -> None:
    tokens = collate_groups(GROUPS, pad_token_id=0)
    got = with_unrelated_responses(tokens)
    expected = unrelated_rows(STORED, max_len=Data().max_len)
    assert texts(got.prompt_ids, got.prompt_mask) == [list(row.prompt_ids) for row in expected]
    assert texts(got.response_ids, got.response_mask) == [list(x.response_ids) for x in expected]
    assert got.finished.tolist() == [row.finished for row in expected]
    assert torch.equal(got.group, tokens.group)


def test_online_rows_of_a_group_need_not_be_adjacent() -> None:
    order = [3, 0, 2, 4, 1, 5]
    got = with_unrelated_responses(collate_groups(GROUPS, pad_token_id=0).take(order))
    # Prompts by first appearance: 2 (rows 3 4 5), 0 (rows 0 1), 1 (row 2).
    expected = [ROWS[i].response_ids for i in (0, 2, 3, 1, 2, 0)]
    assert texts(got.response_ids, got.response_mask) == [list(ids) for ids in expected]


def test_online_one_prompt_has_no_unrelated_response() -> None:
    tokens = collate_groups(GROUPS[:1], pad_token_id=0)
    with pytest.raises(ValueError, match="all rows answer one prompt"):
        with_unrelated_responses(tokens)


@dataclass(frozen=True)
class Recording(ClusterScorer):
    """Answers for policy and reference; everything else is the real scorer's."""

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        if Role.UNRELATED in roles:
            return super().score(tokens, rollouts, roles)
        return FakeScorer().score(tokens, rollouts, roles)


def test_online_unrelated_log_ratios() -> None:
    tokens = collate_groups(GROUPS, pad_token_id=0)
    batch = Recording().score(tokens, [], frozenset({Role.UNRELATED}))
    assert batch[Role.UNRELATED].tolist() == pytest.approx(unrelated_by_hand([0, 1, 2]))
