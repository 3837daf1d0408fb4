"""Sampling: what a step reads, how many there are, and how many sequences run at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planned_jobs import LLAMA_8B, TABLE, machine, rto_config, rto_job

from rto.planning.decoding import cache_bytes, generate, max_running
from rto.planning.rates import Rates

IDEAL = replace(Rates(), scoring=1.0, hbm=1.0, decode_step=0.0, decode_sequence=0.0)
WEIGHTS = 2 * (8_030_261_248 - TABLE)


def test_keys_and_values_of_a_token() -> None:
    # Two of 8 heads x 128 in bf16, in 32 layers.
    assert cache_bytes(LLAMA_8B, 2) == 2 * 32 * 1024 * 2 == 131_072


def test_the_longest_response_decides_how_often_the_weights_are_read() -> None:
    stage = generate(rto_job(), IDEAL)
    assert stage.parts["reading weights"] == pytest.approx(1024 * WEIGHTS / 2039e9)
    shorter = rto_config("rto-llama3-8b-8xa100", "--rollout.max_new_tokens", "512")
    halved = generate(rto_job(shorter), IDEAL)
    assert halved.parts["reading weights"] == pytest.approx(512 * WEIGHTS / 2039e9)


def test_if_all_responses_are_of_one_length_all_run_to_the_end() -> None:
    stage = generate(rto_job(response_tokens=1024), IDEAL)
    # 128 sequences, each with 250 tokens of prompt and on average half of its response.
    read = 1024 * 128 * (250 + 512) * 131_072
    assert stage.parts["reading the cache"] == pytest.approx(read / 2039e9, rel=1e-3)


def test_the_tokens_of_all_slices_are_the_mean_times_the_sequences() -> None:
    """Work per running sequence and step adds up to the tokens, whatever the distribution."""
    rates = replace(IDEAL, decode_sequence=1.0)
    for mean in (200, 400, 900):
        seconds = generate(rto_job(response_tokens=mean), rates).parts["engine's own work"]
        assert seconds == pytest.approx(128 * mean, rel=0.01)


def test_a_long_queue_adds_steps_at_full_width() -> None:
    rates = replace(IDEAL, decode_sequence=1.0)
    config = rto_config("rto-llama3-8b-1xa100")
    job = rto_job(config, on=machine(gpus=1))
    assert max_running(job) == 256
    seconds = generate(job, rates).parts["engine's own work"]
    assert seconds == pytest.approx(1024 * 400, rel=0.01)


def test_what_the_cache_holds_runs_at_once() -> None:
    assert max_running(rto_job(cache_tokens=65_000)) == 100
    assert max_running(rto_job(cache_tokens=100)) == 1
    # vLLM's own limit: 256 on an A100, 1,024 on what has more memory.
    assert max_running(rto_job(cache_tokens=10**6)) == 256
    assert max_running(rto_job(cache_tokens=10**6, on=machine(card="H200", gib=141))) == 1024


def test_a_step_takes_what_is_more_products_or_bytes() -> None:
    slow = machine()
    slow = replace(slow, card=replace(slow.card, tflops=1))
    parts = generate(rto_job(on=slow), IDEAL).parts
    assert parts["products of steps"] > 0
    assert "reading weights" not in parts
    assert "products of steps" not in generate(rto_job(), IDEAL).parts


def test_gpus_of_an_engine_share_the_weights_and_wait_for_each_other() -> None:
    flags = ("--vllm.num_engines", "4", "--vllm.tensor_parallel_size", "2",
             "--rollout.batch_size", "512")  # fmt: skip
    config = rto_config("rto-llama3-8b-8xa100", *flags)
    rates = replace(IDEAL, tp_layer=1e-3)
    parts = generate(rto_job(config), rates).parts
    assert parts["reading weights"] == pytest.approx(1024 * WEIGHTS / 2039e9 / 2)
    assert parts["between an engine's GPUs"] == pytest.approx(1024 * 32 * 1e-3)


def test_the_prompt_of_a_group_is_read_once_with_prefix_caching() -> None:
    flags = ("--rollout.batch_size", "256", "--rollout.n_samples_per_prompt", "4")
    cached = generate(rto_job(rto_config("rto-llama3-8b-8xa100", *flags)), IDEAL)
    off = rto_config("rto-llama3-8b-8xa100", *flags, "--vllm.enable_prefix_caching", "false")
    assert generate(rto_job(off), IDEAL).parts["reading prompts"] == pytest.approx(
        4 * cached.parts["reading prompts"]
    )
