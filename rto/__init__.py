"""Align language models from any kind of feedback, on Ray, vLLM and DeepSpeed.

``rto.train``, ``rto.fit``, ``rto.sft``, ``rto.reward`` and ``rto.dpo`` are the commands of the same
names; ``rto.Run(folder)`` reads what a run left. They come from ``rto.api`` at their first use, so
that ``import rto`` costs nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rto.builds import hide_cuda_builds
from rto.moved import FormerNames

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rto.api import Run, dpo, fit, load_config, reward, sft, train

hide_cuda_builds()
sys.meta_path.append(FormerNames())

__all__ = ["Run", "__version__", "dpo", "fit", "load_config", "reward", "sft", "train"]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("rto.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
