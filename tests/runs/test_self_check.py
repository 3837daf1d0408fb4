"""The self-check of a run passes a pipeline that agrees with itself, and each check can fail."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from local_group import (
    EOS,
    BigramEngine,
    BigramRank,
    FrozenReplica,
    bigram,
    engines,
    scorers,
    trainers,
)
from torch import Tensor

from rto.cluster.generator import EngineGenerator
from rto.cluster.scorer import ClusterScorer, RewardSources
from rto.errors import ProofError
from rto.rollout.requests import Sampling
from rto.runs.self_check import CHECKS, few, self_check
from rto.types import Prompt, Role, TokenBatch

ALL = frozenset({Role.POLICY, Role.REFERENCE, Role.REWARD})
PROMPTS = [Prompt(id=i, token_ids=(1,) * i + (2,), text=f"p{i}") for i in range(4)]


class Shifted(BigramRank):
    """A trainer whose log-prob of every token is 0.25 above what it was sampled with."""

    def score(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        exact = super().score(tokens, temperature=temperature)
        return (exact + 0.25).masked_fill(~tokens.response_mask, 0)


class ByRow(BigramRank):
    """A trainer that adds 0.01 times the place of the row in its batch."""

    def score(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        exact = super().score(tokens, temperature=temperature)
        return exact + 0.01 * torch.arange(len(tokens)).unsqueeze(-1)


class Drifting(BigramRank):
    """A trainer that adds 0.1 for each forward before."""

    def score(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        drift = 0.1 * len(self.seen)
        exact = super().score(tokens, temperature=temperature)
        return (exact + drift).masked_fill(~tokens.response_mask, 0)


class Broken(BigramRank):
    def score(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        return super().score(tokens, temperature=temperature) * math.nan


class PaysForPadding(FrozenReplica):
    """Rewards of -100, and 1 less for each column of the prompts that is padding."""

    def reward(self, tokens: TokenBatch) -> Tensor:
        return -100.0 - (~tokens.prompt_mask).sum(-1)


def check(
    *,
    rank: BigramRank | None = None,
    engine: Tensor | None = None,
    frozen: FrozenReplica | None = None,
    longest: int = 8,
    stops: tuple[int, ...] = (EOS,),
    **changes: Any,
) -> dict[str, float]:
    """The self-check of a pipeline that agrees with itself but for the parts given."""
    table = bigram()
    sampler = BigramEngine(table if engine is None else engine)
    generator = EngineGenerator(
        engines=engines(sampler),
        sampling=Sampling(longest, stop_token_ids=stops),
        samples_per_prompt=1,
        run_seed=0,
    )
    scorer = ClusterScorer(
        policy=trainers("policy", rank or BigramRank(table)),
        frozen=scorers(frozen or FrozenReplica({Role.REFERENCE: table})),
        rewards=RewardSources(
            normalise=[(0.0, 1.0)], weights=[1.0], model_names=["r"], ends={EOS: "</s>"}
        ),
    )
    common: dict[str, Any] = {
        "prompts": PROMPTS,
        "generator": generator,
        "scorer": scorer,
        "version": 7,
        "roles": ALL,
        "tolerance": 1e-3,
        "same_reference": True,
        "pad_token_id": 0,
    }
    try:
        return self_check(**{**common, **changes})
    finally:
        assert sampler.notes == [("generate", len(PROMPTS), 7)]


def test_a_pipeline_that_agrees_with_itself_passes_every_check() -> None:
    assert check() == pytest.approx(
        {
            "check/engine_trainer_abs_diff": 0.0,
            "check/importance_ratio": 1.0,
            "check/reference_abs_diff": 0.0,
            "check/reward_padding_abs_diff": 0.0,
        },
        abs=1e-6,
    )
    assert check().keys() == CHECKS.keys()
    check(tolerance=0.0)


def test_engines_with_other_weights_than_the_trainer_are_found() -> None:
    with pytest.raises(ProofError, match="self-check failed: engine log-probs equal trainer"):
        check(engine=bigram(seed=1))


def test_the_gap_is_a_mean_over_real_tokens_and_the_tolerance_its_bound() -> None:
    """Every token is off by 0.25, in responses of several lengths; the padding is not."""
    rank = Shifted(bigram())
    figures = check(rank=rank, tolerance=0.2501)
    masks = rank.seen[0].response_mask
    assert not masks.all(), "some response must be padded"
    assert figures["check/engine_trainer_abs_diff"] == pytest.approx(0.25, abs=1e-6)
    assert figures["check/reference_abs_diff"] == pytest.approx(0.25, abs=1e-6)
    assert figures["check/importance_ratio"] == pytest.approx(1.0)
    with pytest.raises(ProofError, match=r"engine log-probs.*difference\| 0.25, tolerance 0.249"):
        check(rank=rank, tolerance=0.249)


def test_log_probs_that_depend_on_the_place_of_a_row_are_found() -> None:
    """Rows 0 to 3 of equal length: off from the engine by 0.01 times 0, 1, 2, 3, 0.015 on average.
    In reverse order they are off by 0.01 times 3, 2, 1, 0: between the two are 3, 1, 1 and 3
    hundredths, 0.02 on average. What the check shows is exp of that, averaged."""
    options: dict[str, Any] = {"rank": ByRow(bigram()), "stops": (), "same_reference": False}
    with pytest.raises(ProofError, match=r"failed: importance ratio is 1: .* 0.02, tolerance"):
        check(tolerance=0.0175, **options)
    figures = check(tolerance=0.0201, **options)
    assert figures["check/engine_trainer_abs_diff"] == pytest.approx(0.015, abs=1e-6)
    ratios = [math.exp(x) for x in (0.03, 0.01, -0.01, -0.03)]
    assert figures["check/importance_ratio"] == pytest.approx(sum(ratios) / 4, abs=1e-6)


def test_weights_that_move_between_two_forwards_show_in_the_ratio() -> None:
    """Every real token of the second forward is 0.1 above the first: exp(0.1), padding left out."""
    rank = Drifting(bigram())
    figures = check(rank=rank, tolerance=0.1001)
    assert not rank.seen[0].response_mask.all(), "some response must be padded"
    assert figures["check/importance_ratio"] == pytest.approx(math.exp(0.1), rel=1e-5)
    with pytest.raises(ProofError, match="failed: importance ratio is 1"):
        check(rank=Drifting(bigram()), tolerance=0.0999)


def test_a_policy_that_is_not_its_reference_is_found_where_it_should_be() -> None:
    other = FrozenReplica({Role.REFERENCE: bigram(seed=1)})
    with pytest.raises(ProofError, match=r"failed: policy equals reference \(KL 0\)"):
        check(frozen=other)
    assert "check/reference_abs_diff" not in check(frozen=other, same_reference=False)


def test_a_reward_that_depends_on_padding_is_found() -> None:
    """Prompts of 1 to 4 tokens: in one batch the shortest has 3 columns of padding, alone none. So
    its reward is -103 and -100; the sizes average 101.5, and 3 / 101.5 may be 10 tolerances."""
    paying = PaysForPadding({Role.REFERENCE: bigram()})
    gap = 3 / 101.5
    figures = check(frozen=paying, tolerance=gap / 10 * 1.001)
    assert figures["check/reward_padding_abs_diff"] == pytest.approx(gap, rel=1e-4)
    with pytest.raises(ProofError, match="failed: reward does not depend on padding"):
        check(frozen=paying, tolerance=gap / 10 * 0.999)


def test_a_small_reward_is_not_blown_up() -> None:
    """Rewards that average 0.15 are compared as they are: 3 columns of padding make 0.3."""

    class Small(FrozenReplica):
        def reward(self, tokens: TokenBatch) -> Tensor:
            return 0.1 * (~tokens.prompt_mask).sum(-1).float()

    figures = check(frozen=Small({Role.REFERENCE: bigram()}), tolerance=0.1)
    assert figures["check/reward_padding_abs_diff"] == pytest.approx(0.3, rel=1e-4)


def test_a_figure_that_is_not_a_number_fails() -> None:
    with pytest.raises(ProofError, match=r"difference\| nan"):
        check(rank=Broken(bigram()))


@pytest.mark.parametrize(
    ("roles", "checks"),
    [
        ({Role.POLICY}, {"check/engine_trainer_abs_diff", "check/importance_ratio"}),
        ({Role.REWARD}, {"check/reward_padding_abs_diff"}),
        ({Role.REFERENCE}, set()),
    ],
)
def test_only_what_is_scored_is_checked(roles: set[Role], checks: set[str]) -> None:
    assert check(roles=frozenset(roles)).keys() == checks


def test_the_first_few_prompts_are_checked_with_seeds_of_their_own() -> None:
    prompts = [*PROMPTS, replace(PROMPTS[0], id=9)]
    chosen = few(prompts)
    assert [prompt.id for prompt in chosen] == [-1, -2, -3, -4]
    assert [prompt.token_ids for prompt in chosen] == [p.token_ids for p in PROMPTS]
    assert len(few(prompts, 2)) == 2
