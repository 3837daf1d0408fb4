"""The one place that asks torch about devices; everything else is handed a ``torch.device``."""

from __future__ import annotations

import resource
from typing import Literal

import torch

from rto.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


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


def device_type(name: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """The kind of device that a run uses, for plans made before any actor has its GPU."""
    return "cpu" if resolve_device(name).type == "cpu" else "cuda"


def dtype_of(name: Literal["bf16", "fp32"]) -> torch.dtype:
    return DTYPES[name]


def empty_cache(device: torch.device) -> None:
    """Return cached blocks to the driver; nothing to do on the CPU."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def peak_memory(device: torch.device) -> int:
    """Most bytes that tensors held on the device, or the process's peak resident size on CPU."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.accelerator.max_memory_allocated(device)


def reset_peak_memory(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)


def _accelerator_type() -> str:
    accelerator = torch.accelerator.current_accelerator()
    return "cpu" if accelerator is None else accelerator.type
