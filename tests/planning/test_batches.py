"""The plan's figures, each against its own arithmetic written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from rto.runs.estimate import GIB, batch_arithmetic, disk_bytes, gib, trainer_bytes
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Ckpt, DeepSpeed, Lora
from rto.sections.training import Actor, RolloutSection, Train

N = 1000
Stage = Literal[0, 1, 2, 3]


def with_zero(stage: Stage, dtype: Literal["bf16", "fp32"], offload: bool = False) -> RunConfig:
    return RunConfig(ds=DeepSpeed(zero_stage=stage, param_dtype=dtype, adam_offload=offload))


@pytest.mark.parametrize(
    ("stage", "per_parameter"),
    # fp32 on 4 ranks: weights 4, gradients 4, Adam's two moments 8; what the stage shards is / 4.
    [(0, 4 + 4 + 8), (1, 4 + 4 + 2), (2, 4 + 1 + 2), (3, 1 + 1 + 2)],
)
def test_each_zero_stage_shards_one_more_part(stage: Stage, per_parameter: float) -> None:
    got = trainer_bytes(N, config=with_zero(stage, "fp32"), ranks=4)
    assert got == N * per_parameter


def test_mixed_precision_keeps_a_third_fp32_state() -> None:
    # bf16: weights 2, gradients 2, moments and master weights 12; ZeRO 0.
    assert trainer_bytes(N, config=with_zero(0, "bf16"), ranks=4) == N * (2 + 2 + 12)


def test_offloading_takes_the_optimizer_off_the_device() -> None:
    config = with_zero(2, "bf16", offload=True)
    assert trainer_bytes(N, config=config, ranks=4) == N * (2 + 2 / 4)


def test_adapters_train_a_hundredth() -> None:
    config = with_zero(2, "bf16")
    adapted = replace(config, ds=replace(config.ds, lora=Lora(rank=8)))
    want = N * 2 + N // 100 * (2 / 4 + 12 / 4)
    assert trainer_bytes(N, config=adapted, ranks=4) == want


def test_batch_arithmetic_multiplies_out() -> None:
    config = RunConfig(
        actor=Actor(num_gpus_per_node=2),
        rollout=RolloutSection(batch_size=8, n_samples_per_prompt=4, max_new_tokens=24),
        train=Train(batch_size=16, max_epochs=3),
        data=Data(max_len=64),
    )
    lines = {line.name: line.value for line in batch_arithmetic(config, iterations=5)}
    assert lines == {
        "sequences per iteration": "32",  # 8 prompts x 4
        "optimizer steps per iteration": "6",  # 32 / 16 x 3 epochs
        "sequences per rank and step": "8",  # 16 / 2
        "tokens per sequence, at most": "64",
        "iterations": "5",
        "optimizer steps": "30",  # 5 x 6
    }


def test_disk_holds_the_kept_checkpoints_one_in_writing_and_two_exports() -> None:
    config = RunConfig(ds=DeepSpeed(param_dtype="fp32"), ckpt=Ckpt(max_num=3))
    # A checkpoint: weights 4 and moments 8. Three kept and one in writing; `last` and `best`.
    assert disk_bytes(N, config=config) == N * (12 * 4 + 2 * 4)


def test_gib() -> None:
    assert gib(1.5 * GIB) == "1.50 GiB"
