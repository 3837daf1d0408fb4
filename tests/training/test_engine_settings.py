"""The engine's settings before DeepSpeed sees them: rates, optimizer, configuration."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from rto.errors import UserError
from rto.sections.training import Adam, LrScheduler
from rto.training.engine_settings import (
    EngineSettings,
    adamw,
    deepspeed_config,
    learning_rate_schedule,
)

WARMUP, TOTAL = 5, 20


def rates(name: LrScheduler) -> list[float]:
    """Of a rate of 1, before each step and after the last."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    settings = EngineSettings(
        zero_stage=0, dtype="fp32", adam=Adam(), max_norm=1.0, scheduler=name,
        warmup_steps=WARMUP, total_steps=TOTAL, min_lr_ratio=0.1, device="cpu",
    )  # fmt: skip
    schedule = learning_rate_schedule(optimizer, settings)
    found = [float(schedule.get_last_lr()[0])]
    for _ in range(TOTAL):
        optimizer.step()
        schedule.step()
        found.append(float(schedule.get_last_lr()[0]))
    return found


@pytest.mark.parametrize("name", get_args(LrScheduler))
def test_every_schedule_that_a_config_may_name(name: LrScheduler) -> None:
    found = rates(name)
    assert max(found) == found[WARMUP] == 1.0
    assert found[0] == (1.0 if name == "constant" else 0.0)
    assert found[WARMUP:] == sorted(found[WARMUP:], reverse=True), "never rises after the warm-up"


def test_the_default_ends_at_its_floor() -> None:
    assert rates("cosine_with_min_lr")[-1] == pytest.approx(0.1)
    assert rates("cosine")[-1] == pytest.approx(0.0)
    assert rates("linear")[WARMUP + 3] == pytest.approx(1 - 3 / (TOTAL - WARMUP))


def settings(**changes: Any) -> EngineSettings:
    common: dict[str, Any] = {
        "zero_stage": 2, "dtype": "fp32", "adam": Adam(), "max_norm": 0.5, "scheduler": "cosine",
        "warmup_steps": 1, "total_steps": 2, "min_lr_ratio": 0.1, "device": "cpu",
    }  # fmt: skip
    return EngineSettings(**{**common, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adam_offload": True}, "train.device is cpu: nothing to offload"),
        ({"adam_offload": True, "device": "cuda", "zero_stage": 0}, "use stage 1, 2 or 3"),
        ({"overlap_comm": True, "zero_stage": 1}, "ds.zero_stage is 1: use stage 2 or 3"),
    ],
)
def test_what_a_stage_cannot_do_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        ({}, {}, ["bf16", "data_types"]),
        ({"dtype": "bf16", "zero_stage": 0}, {"bf16": {"enabled": True}}, ["data_types"]),
        ({"dtype": "bf16"}, {"data_types": {"grad_accum_dtype": "fp32"}}, []),
    ],
)
def test_gradients_of_bf16_are_summed_in_fp32(
    changes: dict[str, Any], present: dict[str, Any], absent: list[str]
) -> None:
    config = deepspeed_config(settings(**changes))
    assert {name: config[name] for name in present} == present
    assert not config.keys() & set(absent)
    assert config["gradient_clipping"] == 0.5


def test_offloaded_states_are_kept_on_the_cpu() -> None:
    offloaded: Any = deepspeed_config(settings(adam_offload=True, device="cuda"))
    assert offloaded["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    resident: Any = deepspeed_config(settings())
    assert "offload_optimizer" not in resident["zero_optimization"]


def test_biases_and_norms_do_not_decay_and_frozen_weights_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1, bias=False))
    module[2].weight.requires_grad_(False)
    made = adamw(module, settings(adam=Adam(lr=0.1, weight_decay=0.5)))
    decaying, others = made.param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert [tuple(p.shape) for p in decaying["params"]] == [(3, 2)]
    assert [tuple(p.shape) for p in others["params"]] == [(3,)] * 3
    (plain,) = adamw(module, settings()).param_groups
    assert len(plain["params"]) == 4
