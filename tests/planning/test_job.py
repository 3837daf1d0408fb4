"""What a run computes: tokens, operations, trained parameters."""

from __future__ import annotations

from dataclasses import replace

from planned_jobs import LLAMA_1B, LLAMA_8B, TABLE, rto_config, rto_job

from rto.planning.job import StageTime, add, forward_flops, matrix_params


def test_the_table_of_embeddings_is_no_product_unless_it_is_the_head() -> None:
    assert matrix_params(LLAMA_8B) == 8_030_261_248 - TABLE
    assert matrix_params(replace(LLAMA_8B, tied=True)) == 8_030_261_248
    assert matrix_params(LLAMA_1B) == 1_235_816_448 - 128256 * 2048


def test_a_forward_is_two_operations_per_parameter_and_token_and_attention() -> None:
    products = 2 * 10 * (8_030_261_248 - TABLE)
    assert forward_flops(LLAMA_8B, 10, 0) == products
    # Scores and values: two products of 4,096 with 325 tokens in each of 32 layers.
    attention = 10 * 32 * 2 * (2 * 4096 * 325)
    assert forward_flops(LLAMA_8B, 10, 325) == products + attention


def test_tokens_of_a_rollout() -> None:
    job = rto_job()
    assert job.sequences == 1024
    assert job.forward_tokens == 1024 * 650
    assert job.room == 1024 * 1024
    assert job.context == 325


def test_a_groups_prompt_is_read_once_where_the_model_packs() -> None:
    config = rto_config("rto-llama3-8b-8xa100", "--rollout.batch_size", "256",
                        "--rollout.n_samples_per_prompt", "4")  # fmt: skip
    assert rto_job(config).forward_tokens == 256 * 250 + 1024 * 400
    assert rto_job(config, shares_prompts=False).forward_tokens == 1024 * 650


def test_fp32_is_half_as_fast_and_twice_as_large() -> None:
    half, full = rto_job(), rto_job(rto_config("rto-llama3-8b-8xa100", "--ds.param_dtype", "fp32"))
    assert (half.peak, full.peak) == (312e12, 156e12)
    assert (half.width, full.width) == (2, 4)


def test_weights_travel_as_the_layout_has_it() -> None:
    assert (rto_job().transport, rto_job().shared) == ("ipc", True)
    apart = rto_job(rto_config("rto-llama3-8b-8xa100", "--train.colocate_all", "false"))
    assert (apart.transport, apart.shared) == ("nccl", False)


def test_a_stage_is_its_parts() -> None:
    parts = {"a": 1.0}
    add(parts, {"a": 1.0, "b": 1.5})
    stage = StageTime("x", parts)
    assert (stage.seconds, stage.bound) == (3.5, "a")
