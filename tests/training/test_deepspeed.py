"""Learning rates over the steps of a run."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from rto.sections.training import Adam, LrScheduler
from rto.training.deepspeed import EngineSettings, learning_rate_schedule

WARMUP, TOTAL = 5, 20


def rates(name: LrScheduler) -> list[float]:
    """Of a rate of 1, before each step and after the last."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    settings = EngineSettings(
        zero_stage=0, dtype="fp32", adam=Adam(), max_norm=1.0, scheduler=name,
        warmup_steps=WARMUP, total_steps=TOTAL, min_lr_ratio=0.1, device="cpu",
    )  # fmt: skip
    schedule = learning_rate_schedule(optimizer, settings)
    found = [schedule.get_last_lr()[0]]
    for _ in range(TOTAL):
        optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
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
