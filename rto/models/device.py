"""Choose the device. Only this module asks torch about devices; others get a ``torch.device``."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch

from rto.errors import UserError
from rto.sections.run_config import RunConfig

DeviceType = Literal["cpu", "cuda"]
Dtype = Literal["bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

BF16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")
"""What a CPU that multiplies bf16 matrices reports: x86 the first two, Arm the last. Without one
of them a product in bf16 takes some 40 times as long as in fp32."""
BF16_CAPABILITY = (8, 0)
"""The first CUDA compute capability (Ampere) with bf16 arithmetic."""


def resolve_device(name: Literal["auto", "cpu", "cuda"], index: int = 0) -> torch.device:
    """``auto`` takes the CUDA device where there is one and the CPU otherwise."""
    has_cuda = torch.accelerator.is_available() and _accelerator_type() == "cuda"
    if name == "cpu" or (name == "auto" and not has_cuda):
        return torch.device("cpu")
    if not has_cuda:
        raise UserError("train.device is cuda, but torch sees no CUDA device: use cpu or auto")
    count = torch.accelerator.device_count()
    if index >= count:
        raise UserError(f"device cuda:{index} does not exist: this process sees {count} GPUs")
    return torch.device("cuda", index)


def device_type(name: Literal["auto", "cpu", "cuda"]) -> DeviceType:
    """The kind of device that a run uses, for plans made before any actor has its GPU."""
    return "cpu" if resolve_device(name).type == "cpu" else "cuda"


def dtype_of(name: Dtype) -> torch.dtype:
    return DTYPES[name]


def native_dtype(
    device: DeviceType,
    *,
    cpu: Mapping[str, object],
    cuda: tuple[int, int] | None,
) -> Dtype:
    """bf16 where the device computes in it, else fp32.

    ``cpu``: features by name, as ``torch.cpu.get_capabilities`` has them. ``cuda``: the GPU's
    compute capability; None where this process sees no GPU, because the cluster has it.
    """
    if device == "cuda":
        return "bf16" if cuda is None or cuda >= BF16_CAPABILITY else "fp32"
    return "bf16" if any(cpu.get(name) for name in BF16_FEATURES) else "fp32"


def with_dtype(config: RunConfig, device: DeviceType | None = None) -> RunConfig:
    """The configuration with ``ds.param_dtype`` settled: what a run records and its actors get.

    ``device`` is the run's (``rto.cluster.device.run_device``); this machine's where it is None.
    """
    if config.ds.param_dtype != "auto":
        return config
    dtype = native_dtype(
        device or device_type(config.train.device),
        cpu=torch.cpu.get_capabilities(),
        cuda=torch.cuda.get_device_capability() if torch.cuda.is_available() else None,
    )
    return replace(config, ds=replace(config.ds, param_dtype=dtype))


def dtype_told(asked: RunConfig, settled: RunConfig, device: DeviceType) -> str:
    """The line that says which dtype a run on ``device`` computes in, and why."""
    name = settled.ds.dtype
    if asked.ds.param_dtype != "auto":
        return f"dtype: {name}"
    has = "has" if name == "bf16" else "has no"
    kind = "GPU" if device == "cuda" else "CPU"
    return f"dtype: {name} (ds.param_dtype auto: this {kind} {has} bf16 arithmetic)"


def gpu_bytes() -> float | None:
    """Memory of this machine's smallest GPU; None where this process sees none."""
    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    return float(min(torch.cuda.get_device_properties(i).total_memory for i in range(count)))


def empty_cache(device: torch.device) -> None:
    """Return cached blocks to the driver; nothing to do on the CPU."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def peak_memory(device: torch.device) -> int:
    """Most bytes that tensors held on the device, or the process's peak resident size on CPU."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.accelerator.max_memory_allocated(device)


def _accelerator_type() -> str:
    accelerator = torch.accelerator.current_accelerator()
    return "cpu" if accelerator is None else accelerator.type
