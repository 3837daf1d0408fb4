from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from rto.errors import UserError
from rto.models.device import (
    device_type,
    dtype_of,
    dtype_told,
    native_dtype,
    resolve_device,
    with_dtype,
)
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed


@pytest.mark.parametrize(
    ("device", "cpu", "cuda", "dtype"),
    [
        ("cpu", {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, None, "fp32"),
        ("cpu", {"avx512_f": True, "avx512_bf16": True}, None, "bf16"),
        ("cpu", {"amx_bf16": True}, None, "bf16"),
        ("cpu", {"architecture": "aarch64", "bf16": True}, None, "bf16"),
        ("cpu", {"avx2": True}, (9, 0), "fp32"),  # The run was told to stay off the GPU.
        ("cuda", {"avx512_bf16": True}, (7, 5), "fp32"),
        ("cuda", {}, (8, 0), "bf16"),
        ("cuda", {}, None, "bf16"),  # The cluster's GPUs, seen from a machine without one.
    ],
)
def test_dtype_is_what_the_device_computes_in(
    device: Literal["cpu", "cuda"],
    cpu: dict[str, object],
    cuda: tuple[int, int] | None,
    dtype: str,
) -> None:
    assert native_dtype(device, cpu=cpu, cuda=cuda) == dtype


def test_dtype_is_settled_once_and_said() -> None:
    asked = RunConfig()
    with pytest.raises(RuntimeError, match="was not prepared"):
        _ = asked.ds.dtype
    settled = with_dtype(asked)
    assert settled.ds.param_dtype == settled.ds.dtype in ("bf16", "fp32")
    assert replace(settled, ds=asked.ds) == asked
    told = dtype_told(asked, settled, device_type("auto"))
    assert told.startswith(f"dtype: {settled.ds.dtype} (ds.param_dtype auto")
    given = RunConfig(ds=DeepSpeed(param_dtype="bf16"))
    assert with_dtype(given) is given
    assert dtype_told(given, given, "cpu") == "dtype: bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a driver without GPUs is the case")
def test_dtype_is_that_of_the_runs_device_not_of_the_drivers() -> None:
    asked = RunConfig()
    settled = with_dtype(asked, "cuda")
    assert settled.ds.dtype == "bf16"
    assert "this GPU has bf16" in dtype_told(asked, settled, "cuda")


def test_device() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert dtype_of("bf16") == torch.bfloat16
    if not torch.accelerator.is_available():
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="no CUDA device"):
            resolve_device("cuda")
