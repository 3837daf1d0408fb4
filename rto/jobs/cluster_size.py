"""The cluster that a run needs: the nodes, GPUs and CPUs of its own plan of actors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rto.cluster.plan import Plan
from rto.errors import UserError
from rto.jobs.submission import JobRun
from rto.runs.planned import planner_of

USUAL_GPUS = 8
"""Of a node, where each group of actors has GPUs of its own and nobody says how many a node has."""
ENOUGH_CPUS = 2.0**20
"""With so many every actor on a CPU gets a whole one."""


@dataclass(frozen=True)
class ClusterSize:
    """Nodes that are alike, and what each has to have for the run alone."""

    nodes: int
    gpus: int
    """GPUs per node; 0 for a run on CPUs."""
    cpus: int
    """CPUs per node, the driver's included, which may run on any of them."""


def plan_of(run: JobRun) -> Plan:
    """The plan of a run's actors as it will make it, without reading its models."""
    device = "cpu" if run.config.train.device == "cpu" else "cuda"
    return planner_of(run.command, run.config).plan(run.config, device=device, num_cpus=ENOUGH_CPUS)


def cluster_size(
    run: JobRun,
    *,
    driver_cpus: float,
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    cpus_per_node: int | None = None,
) -> ClusterSize:
    """The smallest cluster that holds the plan, with as many nodes as the run's groups are spread
    over, or as are asked for.

    Raises:
        UserError: the nodes that are asked for do not hold the plan, or more than it.
    """
    plan = plan_of(run)
    gpus = round(plan.total("GPU"))
    count = nodes or _nodes(run, gpus, gpus_per_node)
    per_node = gpus_per_node or math.ceil(gpus / count)
    spare = count * per_node - gpus
    if spare < 0 or (gpus and spare >= per_node) or (spare and nodes and not gpus_per_node):
        raise UserError(
            f"--nodes {count} of {per_node} GPUs are {count * per_node} GPUs, the run asks for "
            f"{gpus}: use --nodes {math.ceil(gpus / per_node)}, or as many ranks and engines "
            "(actor.num_nodes, actor.num_gpus_per_node, vllm.num_engines)"
        )
    bundles = [bundle for found in plan.bundles.values() for bundle in found]
    needed = math.ceil(_most_cpus(bundles, count, per_node) + driver_cpus)
    if cpus_per_node is not None and cpus_per_node < needed:
        raise UserError(
            f"--cpus_per_node is {cpus_per_node}, the run reserves {needed} on a node: give as many"
        )
    return ClusterSize(count, per_node if gpus else 0, cpus_per_node or needed)


def _nodes(run: JobRun, gpus: int, gpus_per_node: int | None) -> int:
    """As many as the GPUs fill; else as many as the settings spread the groups over."""
    config = run.config
    if gpus_per_node is not None:
        return max(1, math.ceil(gpus / gpus_per_node))
    if gpus and not config.train.colocate_all:
        return math.ceil(gpus / USUAL_GPUS)
    return max(config.actor.num_nodes, config.critic.num_nodes, config.ref.num_nodes)


def _most_cpus(bundles: Sequence[dict[str, float]], nodes: int, gpus: int) -> float:
    """CPUs on the node that has most of them, when the bundles are laid out by their GPUs, or one
    by one where they have none.

    Raises:
        UserError: a bundle has more GPUs than are left on any node.
    """
    left, cpus = [float(gpus)] * nodes, [0.0] * nodes
    for bundle in sorted(bundles, key=lambda each: -each.get("GPU", 0.0)):
        asked = bundle.get("GPU", 0.0)
        fitting = [node for node in range(nodes) if left[node] >= asked]
        if not fitting:
            raise UserError(
                f"{nodes} nodes of {gpus} GPUs cannot hold the run's actors, one of which asks for "
                f"{asked:g} GPUs of one node: give --gpus_per_node a multiple of it"
            )
        node = fitting[0] if asked else min(fitting, key=lambda each: cpus[each])
        left[node] -= asked
        cpus[node] += bundle.get("CPU", 0.0)
    return max(cpus)
