"""Rewards of several sources combined on the driver: no actor is needed for texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from rto.cluster.scorer import ClusterScorer, RewardSources, TextReward
from rto.errors import RewardProtocolError
from rto.types import Prompt, Role, Rollout, collate

REWARD = frozenset({Role.REWARD})
ENDS = {4: "</s>", 5: "<|end|>"}


def rollout(index: int, text: str, *, finished: bool, label: str | None = None) -> Rollout:
    prompt = Prompt(id=index, token_ids=(1, 2), text=f"ask{index} ", label=label)
    return Rollout(prompt, 0, (3, 4), (-1.0, -1.0), text, finished, policy_version=0, seed=0)


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
    other = replace(first, token_ids=(3, 5))
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
