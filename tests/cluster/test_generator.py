"""A rollout over several engines is the rollout of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from local_group import EOS, BigramEngine, bigram, engines
from sampled import values

from rto.cluster.generator import EngineGenerator
from rto.rollout.requests import SampleRequest, Sampling
from rto.rollout.seeds import request_seed
from rto.types import Prompt

SAMPLING = Sampling(6, stop_token_ids=(EOS,))
PROMPTS = [Prompt(id=10 + i, token_ids=(0,) * (3 * i % 5) + (i % 5,), text="") for i in range(5)]


def some(count: int) -> list[BigramEngine]:
    return [BigramEngine(bigram()) for _ in range(count)]


def generator(*several: BigramEngine, sleep: bool = False) -> EngineGenerator:
    return EngineGenerator(
        engines(*several or some(1)),
        SAMPLING,
        samples_per_prompt=3,
        run_seed=4,
        sleep_after=sleep,
    )


def test_every_prompt_gets_its_samples_in_order_each_drawn_with_its_own_seed() -> None:
    rollouts = generator().generate(PROMPTS, 7, 7)
    assert [(r.prompt, r.sample_index) for r in rollouts] == [
        (prompt, k) for prompt in PROMPTS for k in range(3)
    ]
    alone = BigramEngine(bigram())
    for rollout in rollouts:
        seed = request_seed(4, 7, rollout.prompt.id, rollout.sample_index)
        assert (rollout.seed, rollout.policy_version) == (seed, 7)
        (sample,) = alone.generate([SampleRequest(rollout.prompt.token_ids, seed)], SAMPLING, 7)
        assert rollout.token_ids.tolist() == sample.token_ids.tolist()
        assert rollout.sampler_logprobs.tolist() == sample.logprobs.tolist()
        assert (rollout.text, rollout.finished) == (sample.text, sample.finished)
    assert {r.finished for r in rollouts} == {True, False}


@pytest.mark.parametrize("count", [2, 4])
def test_which_engine_draws_a_sample_changes_nothing(count: int) -> None:
    several = some(count)
    assert values(generator(*several).generate(PROMPTS, 7, 7)) == values(
        generator().generate(PROMPTS, 7, 7)
    )
    drawn = [engine.notes[0] for engine in several]
    assert sum(count for _, count, _ in drawn) == 15
    assert all(count > 0 and version == 7 for _, count, version in drawn)


def test_run_iteration_prompt_and_sample_each_give_another_seed() -> None:
    """Two iterations that one version samples for draw other responses to a prompt of both."""
    plain = generator()
    seeds = [r.seed for r in plain.generate(PROMPTS, 7, 7)]
    assert len(set(seeds)) == 15
    others = [
        *(r.seed for r in plain.generate(PROMPTS, 7, 8)),
        *(r.seed for r in replace(plain, run_seed=5).generate(PROMPTS, 7, 7)),
    ]
    assert not set(seeds) & set(others)
    assert [r.seed for r in plain.generate(PROMPTS, 8, 7)] == seeds


@pytest.mark.parametrize("sleep", [False, True])
def test_engines_sleep_after_a_rollout_where_they_share_their_gpus(sleep: bool) -> None:
    several = some(2)
    generator(*several, sleep=sleep).generate(PROMPTS, 0, 0)
    for engine in several:
        assert [name for name, *_ in engine.notes] == ["generate", *["sleep"] * sleep]
