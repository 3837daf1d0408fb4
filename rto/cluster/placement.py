"""Which actor gets which resources: a pure plan first, then Ray placement groups."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rto.cluster.plan import Plan
from rto.errors import UserError


@dataclass(frozen=True)
class Placement:
    """A plan with its bundles reserved in the cluster, or none of them."""

    plan: Plan
    groups: dict[str, PlacementGroup]

    def options(self, group: str, rank: int) -> dict[str, object]:
        """``Actor.options`` of one actor."""
        if not self.groups:
            return {"num_cpus": 0, "max_restarts": 0}
        spec = self.plan.groups[group]
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=self.groups[spec.bundle_set],
            placement_group_bundle_index=spec.first_bundle + rank * spec.bundles_per_actor,
        )
        return {
            "num_cpus": spec.num_cpus,
            "num_gpus": spec.num_gpus,
            "scheduling_strategy": strategy,
            "max_restarts": 0,
        }


def reserve(plan: Plan, *, timeout: float) -> Placement:
    """Reserve every bundle of the plan.

    Raises:
        UserError: the cluster cannot hold the plan; says what it has and what is asked for.
    """
    groups = {name: placement_group(bundles) for name, bundles in plan.bundles.items()}
    _wait(groups.values(), plan, timeout)
    return Placement(plan=plan, groups=groups)


def release(placement: Placement) -> None:
    for group in placement.groups.values():
        remove_placement_group(group)


def cluster_resources() -> dict[str, float]:
    return {key: float(value) for key, value in ray.cluster_resources().items()}


def _wait(groups: Iterable[PlacementGroup], plan: Plan, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    if not all(group.wait(max(1, deadline - time.monotonic())) for group in groups):
        have = cluster_resources()
        asked = {k: plan.total(k) for k in ("CPU", "GPU")}
        raise UserError(
            f"the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs, the run "
            f"asks for {asked['CPU']:g} and {asked['GPU']:g}: use fewer ranks or engines, or a "
            "larger cluster"
        )
