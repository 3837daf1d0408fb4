"""A rollout over several engines is the rollout of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from local_group import EOS, BigramEngine, bigram, engines
from sampled import values

from rto.cluster.generator import EngineGenerator
from rto.overlap import cut
from rto.rollout.requests import SampleRequest, Sampling
from rto.rollout.seeds import request_seed
from rto.types import Prompt, Rollout

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


def whole(
    drawing: EngineGenerator, version: int, iteration: int, *, parts: int = 1
) -> list[Rollout]:
    """All responses to ``PROMPTS``, which are cut in so many parts."""
    drawn = drawing.generate(cut(PROMPTS, parts), version, iteration)
    return [rollout for part in drawn for rollout in part]


def test_every_prompt_gets_its_samples_in_order_each_drawn_with_its_own_seed() -> None:
    rollouts = whole(generator(), 7, 7)
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
    assert values(whole(generator(*several), 7, 7)) == values(whole(generator(), 7, 7))
    drawn = [engine.notes[0] for engine in several]
    assert sum(count for _, count, _ in drawn) == 15
    assert all(count > 0 and version == 7 for _, count, version in drawn)


def test_run_iteration_prompt_and_sample_each_give_another_seed() -> None:
    """Two iterations that one version samples for draw other responses to a prompt of both."""
    plain = generator()
    seeds = [r.seed for r in whole(plain, 7, 7)]
    assert len(set(seeds)) == 15
    others = [
        *(r.seed for r in whole(plain, 7, 8)),
        *(r.seed for r in whole(replace(plain, run_seed=5), 7, 7)),
    ]
    assert not set(seeds) & set(others)
    assert [r.seed for r in whole(plain, 8, 7)] == seeds


@pytest.mark.parametrize("sleep", [False, True])
def test_engines_sleep_after_a_rollout_where_they_share_their_gpus(sleep: bool) -> None:
    several = some(2)
    whole(generator(*several, sleep=sleep), 0, 0)
    for engine in several:
        assert [name for name, *_ in engine.notes] == ["generate", *["sleep"] * sleep]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_change_no_response(parts: int, count: int) -> None:
    several = some(count)
    assert values(whole(generator(*several), 7, 7, parts=parts)) == values(
        whole(generator(*some(count)), 7, 7)
    )
    assert all(len(engine.notes) == 1 for engine in several), "one call, whatever the parts"


def test_a_part_has_the_responses_to_its_prompts() -> None:
    drawn = [[r.prompt.id for r in part] for part in generator().generate(cut(PROMPTS, 2), 0, 0)]
    assert drawn == [[10] * 3 + [11] * 3, [12] * 3 + [13] * 3 + [14] * 3]


def test_engines_sleep_after_the_last_part_before_anyone_reads_it() -> None:
    (engine,) = some(1)
    asleep = [
        engine.notes[-1][0] == "sleep"
        for _ in generator(engine, sleep=True).generate(cut(PROMPTS, 3), 0, 0)
    ]
    assert asleep == [False, False, True]


@pytest.mark.parametrize("sleep", [False, True])
def test_engines_sleep_where_nothing_is_left_to_sample(sleep: bool) -> None:
    (engine,) = some(1)
    assert list(generator(engine, sleep=sleep).generate([], 0, 0)) == []
    assert (engine.notes[-1] == ("sleep",)) is sleep
