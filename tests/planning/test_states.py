"""Bytes of a model in training, each against its own arithmetic written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from llama_shapes import GIB, LLAMA_8B, Stage, whole, zero

from rto.planning.states import (
    BUCKET,
    LIVE,
    TrainedModel,
    accumulated,
    gathered,
    held,
    on_host,
    page_locked,
    weights,
)

N = 8_030_261_248
LARGEST = 525_336_576
Dtype = Literal["bf16", "fp32"]


def on_gpu(stage: Stage, dtype: Dtype = "bf16", *, offload: bool = False, ranks: int = 8):  # type: ignore[no-untyped-def]
    model, ds = whole(LLAMA_8B, ranks), zero(stage, dtype, offload=offload)
    return held(model, ds, on_cpu=False), accumulated(model, ds, on_cpu=False)


def test_8b_on_eight_ranks_as_the_8xa100_configuration_has_it() -> None:
    """ZeRO-2 in bf16: whole weights, 2 bytes; of 4 + 8 + 4 in fp32 an eighth."""
    always, update = on_gpu(2)
    assert always == {"parameters": 2 * N, "fp32 weights": 4 * N / 8, "optimizer": 8 * N / 8}
    assert update == {"gradients": 4 * N / 8, "buckets": 2 * BUCKET}
    in_gib = {name: round(value / GIB, 1) for name, value in {**always, **update}.items()}
    assert in_gib == {
        "parameters": 15.0, "fp32 weights": 3.7, "optimizer": 7.5, "gradients": 3.7, "buckets": 0.9,
    }  # fmt: skip


def test_offloading_leaves_weights_and_a_buffer_of_the_largest_tensor() -> None:
    always, update = on_gpu(2, offload=True)
    assert always == {"parameters": 2 * N, "offload buffer": 2 * LARGEST}
    assert update == {"gradients": 4 * N / 8, "buckets": 2 * BUCKET}


@pytest.mark.parametrize(
    ("stage", "dtype", "per_parameter", "in_update"),
    [
        # On 8 ranks, without buckets. fp32: weights, (a second copy where they are partitioned,)
        # means; then gradients, and the partition in which they are reduced.
        (0, "fp32", 4 + 8, 4),
        (1, "fp32", 4 + 4 / 8 + 8 / 8, 4 + 4 / 8),
        (2, "fp32", 4 + 4 / 8 + 8 / 8, 4 / 8),
        # Mixed: fp32 weights beside; ZeRO-1 keeps whole gradients of both widths.
        (0, "bf16", 2 + 4 + 8, 2 + 4),
        (1, "bf16", 2 + 4 / 8 + 8 / 8 + (4 + 2), 0),
        (2, "bf16", 2 + 4 / 8 + 8 / 8, 4 / 8),
    ],
)
def test_what_each_stage_shards(
    stage: Stage, dtype: Dtype, per_parameter: float, in_update: float
) -> None:
    always, update = on_gpu(stage, dtype)
    assert sum(always.values()) == pytest.approx(N * per_parameter)
    assert sum(value for name, value in update.items() if name != "buckets") == pytest.approx(
        N * in_update
    )


def test_stage_3_shards_all_and_gathers_some_whole() -> None:
    always, update = on_gpu(3)
    assert always == {
        "parameters": 2 * N / 8,
        "fp32 weights": 4 * N / 8,
        "optimizer": 8 * N / 8,
        "gradients": 4 * N / 8,
        "buckets": 2 * BUCKET,
    }
    # A step works on at most 1e9 parameters at a time; an eighth of 8.03e9 is a little more.
    assert update == {"whole weights": 2 * LIVE, "gradients": 4 * 1_000_000_000}
    assert gathered(whole(LLAMA_8B, 8), zero(2)) == 0


def test_stage_1_with_offloading_has_whole_gradients_and_one_partition() -> None:
    _, update = on_gpu(1, offload=True)
    assert update == {"gradients": 4 * (N + N / 8), "buckets": 4 * BUCKET}


def test_stage_1_in_fp32_reduces_gradients_only_among_ranks() -> None:
    """On one rank a process of 70.8 M parameters had 4 bytes of gradients each
    (benchmarks/plan_memory.py)."""
    assert on_gpu(1, "fp32", ranks=1)[1] == {"gradients": 4 * N, "buckets": 0}
    among = {"gradients": 4 * N + 4 * N / 8, "buckets": 4 * BUCKET}
    assert on_gpu(1, "fp32", ranks=8)[1] == among


def test_overlapping_reductions_take_two_buckets() -> None:
    ds = replace(zero(2), overlap_comm=True)
    assert accumulated(whole(LLAMA_8B, 8), ds, on_cpu=False)["buckets"] == 2 * 2 * BUCKET


def test_a_bucket_on_a_cpu_takes_what_is_written_into_it() -> None:
    small = whole(replace(LLAMA_8B, params=1000), 1)
    assert accumulated(small, zero(2, "fp32"), on_cpu=True)["buckets"] == 4 * 1000


def test_adapters_are_trained_beside_a_whole_base() -> None:
    adapters = 167_772_160
    model = TrainedModel(LLAMA_8B, adapters, 10_000, 1)
    always = held(model, zero(2, lora=64), on_cpu=False)
    assert always == {
        "parameters": 2 * (N + adapters),
        "fp32 weights": 4 * adapters,
        "optimizer": 8 * adapters,
    }


def test_a_base_in_4_bits_has_its_matrices_alone_in_them() -> None:
    ds = replace(zero(2, lora=64), load_in_4bit=True)
    rest = N - LLAMA_8B.linear
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    assert weights(LLAMA_8B, ds) == pytest.approx(2 * rest + LLAMA_8B.linear * bits / 8)
    assert weights(LLAMA_8B, ds) / GIB == pytest.approx(5.3, abs=0.05)


def test_a_reference_beside_the_policy_is_whole_on_each_rank() -> None:
    model = replace(whole(LLAMA_8B, 8), reference=LLAMA_8B)
    assert held(model, zero(2), on_cpu=False)["reference"] == 2 * N


def test_the_host_holds_what_is_offloaded_in_powers_of_two() -> None:
    model = whole(LLAMA_8B, 8)
    share = N // 8
    assert 2**31 < 4 * share <= 2**32
    # fp32 weights and gradients 4 GiB each, two means, two copies in bf16 of 2 GiB each, and the
    # largest gradient in bf16: 1 GiB.
    assert on_host(model, zero(2, offload=True)) == 2 * 2**32 + 8 * share + 2 * 2**31 + 2**30
    assert on_host(model, zero(3, offload=True)) == 2 * 2**32 + 8 * share + 2**31
    assert on_host(model, zero(2)) == 0


def test_page_locked_memory_is_rounded_up() -> None:
    assert [page_locked(size) for size in (0, 1, 2, 3, 4, 5, 2**30, 2**30 + 1)] == [
        0, 1, 2, 4, 4, 8, 2**30, 2**31,
    ]  # fmt: skip
