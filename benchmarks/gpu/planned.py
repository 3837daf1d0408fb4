"""What the plan says a rank holds: the only place of this folder that asks it."""

from __future__ import annotations

from benchmarks.common import GIB
from rto.runs.estimate import trainer_bytes
from rto.sections.run_config import RunConfig


def trainer_gib(parameters: int, config: RunConfig) -> float:
    """Weights, gradients and optimizer of one rank of one, without activations."""
    return trainer_bytes(parameters, config=config, ranks=1) / GIB
