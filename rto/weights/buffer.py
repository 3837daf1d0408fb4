"""The buffer through which weights reach an engine on the same GPU (CUDA IPC)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

LEAST = 2**30
"""Bytes: what vLLM takes by default."""


def buffer_bytes(tensors: Iterable[tuple[torch.dtype, tuple[int, ...]]]) -> int:
    """Bytes of a buffer that holds each of these tensors (dtype, shape) whole, as vLLM demands.

    A gibibyte as a rule; an embedding or a head may be larger, of Qwen2.5-7B by 2 %.
    """
    return max([LEAST, *(dtype.itemsize * math.prod(shape) for dtype, shape in tensors)])
