from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from rto.training.guard import StepOutcome, not_finite

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_one_value_of_one_tensor_is_found(value: float, dtype: torch.dtype, at: int) -> None:
    bad = torch.arange(6, dtype=dtype)
    bad[at] = value
    named = [("good", torch.ones(2, 2)), ("bad", bad.view(2, 3)), ("other", torch.zeros(1))]
    assert not_finite(named, CPU) == ["bad"]


def test_largest_numbers_integers_and_empty_tensors_are_finite() -> None:
    largest = torch.tensor([torch.finfo(torch.float32).max, torch.finfo(torch.float32).min])
    packed = torch.full((3,), 255, dtype=torch.uint8)
    named = [("largest", largest), ("four bits", packed), ("nothing", torch.empty(0))]
    assert not_finite(named, CPU) == []
    assert not_finite([], CPU) == []


def test_a_step_is_told_by_its_loss_first() -> None:
    assert StepOutcome(False, float("nan"), float("inf")).problem == "loss is nan"
    assert StepOutcome(False, 1.0, float("inf")).problem == "gradient norm is inf"
