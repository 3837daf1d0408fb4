"""What the plan says a rank holds: the only module of this folder that asks it."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.common import GIB
from rto.planning.memory import Need, gpu_needs
from rto.runs.planned import planned
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig

PROCESS = "process"
"""Parts of a need that the allocator does not see: the CUDA context and the libraries."""


def planned_gib(config: RunConfig) -> dict[str, float]:
    """Figures of the policy's only rank, without its process: what it holds between updates, and
    the peak of one."""
    config, planner = planned("sft", replace(config, algo=Algo("sft")))
    needs = {need.phase: need for need in gpu_needs(planner(config), None)}
    return {
        "planned GiB": _held(needs["checkpoint"]) / GIB,
        "planned peak GiB": _held(needs["update"]) / GIB,
    }


def _held(need: Need) -> float:
    parts = need.groups["policy"]
    return sum(size for part, size in parts.items() if part != PROCESS)
