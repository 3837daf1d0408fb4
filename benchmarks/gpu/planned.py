"""What the plan says a rank holds: the only module of this folder that asks it."""

from __future__ import annotations

from benchmarks.common import GIB
from rto.models.skeleton import num_parameters
from rto.runs.estimate import trainer_bytes
from rto.sections.run_config import RunConfig


def planned_gib(config: RunConfig) -> dict[str, float]:
    """Figures of the policy's only rank, without its CUDA context: weights, gradients and
    optimizer."""
    parameters = num_parameters(str(config.actor.model_name_or_path), "policy")
    return {"planned GiB": trainer_bytes(parameters, config=config, ranks=1) / GIB}
