"""What an installer left out, or put beside a torch that it was not built for."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from rto.errors import UserError

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""vLLM's distributions require them; nothing here needs them."""
CPU_BUILD = "+cpu"
INSTALL_VLLM = "pip install 'rto-rlhf[cpu]', or 'rto-rlhf[cuda]' for NVIDIA GPUs"


def hide_cuda_builds() -> None:
    """Treat the companions of torch as not installed where they cannot be loaded beside it.

    A package registry has them for CUDA only. Beside a torch for CPUs their import fails, and
    transformers imports those that it finds. pip can leave out nothing that a package requires.
    """
    if CPU_BUILD not in _version("torch"):
        return
    for name in COMPANIONS:
        version = name not in sys.modules and _version(name)
        if version and CPU_BUILD not in version:
            sys.modules[name] = None  # pyright: ignore[reportArgumentType]


def is_installed(name: str) -> bool:
    return find_spec(name) is not None


def require_vllm(wanted: str) -> None:
    """
    Raises:
        UserError: ``wanted`` needs it and it is not installed: the package alone names no build.
    """
    if not is_installed("vllm"):
        raise UserError(f"{wanted} needs vLLM, which is not installed: {INSTALL_VLLM}")


def _version(name: str) -> str:
    """As the package's version.py has it, without an import of it; empty where there is none."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return ""
    file = Path(spec.origin).with_name("version.py")
    if not file.is_file():
        return ""
    match = re.search(r"^__version__ = ['\"](.+)['\"]", file.read_text(encoding="utf-8"), re.M)
    return match[1] if match else ""
