"""Tensors of the driver in large pages of memory.

A batch's tensors are larger than what the C library keeps for reuse, so each intermediate result is
fresh memory, and most of its time goes to the kernel's 4 KiB pages.
"""

from __future__ import annotations

import os

SWITCH = "THP_MEM_ALLOC_ENABLE"


def use_large_pages() -> None:
    """Ask for large pages for the tensors of this process alone; its children are not asked for.

    Nothing changes where a tensor was made before, where the kernel has no such pages, or where the
    user has set the variable.
    """
    if SWITCH in os.environ:
        return
    os.environ[SWITCH] = "1"
    try:
        import torch

        # PyTorch reads the variable once, for the first tensor.
        torch.empty(1)
    finally:
        del os.environ[SWITCH]
