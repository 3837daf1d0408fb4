"""Which actor gets which resources: a pure plan first, then Ray placement groups on chosen nodes.

Ray's own strategies say too little here. PACK, the default, may put the GPUs of a tensor-parallel
engine on two nodes, or all of two nodes' ranks on one, depending on what else runs in the cluster.
So the nodes are chosen before (``rto.cluster.nodes.seat``), and each bundle is bound to its node by
the label that Ray gives every node. A plan that cannot be seated is then known at once, and why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ray.util.placement_group import (
    NODE_ID_LABEL_KEY,
    PlacementGroup,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rto.cluster.nodes import cluster_nodes, refusal, seat
from rto.cluster.plan import Plan
from rto.sections.ranges import require
from rto.tracking.phases import tell

LOOK_SECONDS = 0.2
"""How often the cluster is asked whether there is room now."""
TELL_SECONDS = 2.0
"""Processes that have just ended give their room free within that."""
RESERVE_SECONDS = 10.0
"""How long Ray may take to reserve bundles for which there is room."""


@dataclass(frozen=True)
class Placement:
    """A plan with its bundles reserved in the cluster, or none of them.

    ``nodes``: set -> the id of the node of each of its bundles.
    """

    plan: Plan
    groups: Mapping[str, PlacementGroup]
    nodes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def options(self, group: str, rank: int) -> dict[str, object]:
        """``Actor.options`` of one actor."""
        if not self.groups:
            return {"num_cpus": 0, "max_restarts": 0}
        spec = self.plan.groups[group]
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=self.groups[spec.bundle_set],
            placement_group_bundle_index=spec.bundle_of(rank),
        )
        return {
            "num_cpus": spec.num_cpus,
            "num_gpus": spec.num_gpus,
            "scheduling_strategy": strategy,
            "max_restarts": 0,
        }

    def nodes_of(self, group: str) -> list[str]:
        """The id of each actor's node; none where nothing is reserved."""
        spec = self.plan.groups[group]
        seats = self.nodes.get(spec.bundle_set, ())
        return [seats[spec.bundle_of(rank)] for rank in range(spec.num_actors)] if seats else []


def reserve(plan: Plan, *, timeout: float, joining: float = 0.0) -> Placement:
    """Reserve every bundle of the plan on nodes that are there within ``joining`` seconds.

    Raises:
        UserError: the cluster cannot hold the plan, or other work does not give the room free
            within ``timeout`` seconds; says what there is and what is asked for.
    """
    began, told = time.monotonic(), set[str]()
    while True:
        nodes, waited = cluster_nodes(), time.monotonic() - began
        whole = seat(plan, {node.id: node.total for node in nodes})
        if whole.left is None:
            free = seat(plan, {node.id: node.free for node in nodes})
            if free.left is None and (found := _reserved(plan, free.nodes)) is not None:
                return found
            waits_for = "what other work holds in the cluster"
            require(
                waited <= timeout,
                f"other work holds what the run needs of the cluster, for {waited:.0f} s now: "
                "wait until it ends (`ray status` shows it), or set a longer ray.start_timeout",
            )
        else:
            require(waited < joining, refusal(plan, whole.left, nodes))
            waits_for = "more nodes to join the cluster"
        if waits_for not in told and waited > TELL_SECONDS:
            tell(f"waiting for {waits_for}")
            told.add(waits_for)
        time.sleep(LOOK_SECONDS)


def _reserved(plan: Plan, nodes: Mapping[str, Sequence[str]]) -> Placement | None:
    """The plan on these nodes; None, with nothing reserved, where other work was faster."""
    groups = {
        name: placement_group(
            bundles, bundle_label_selector=[{NODE_ID_LABEL_KEY: node} for node in nodes[name]]
        )
        for name, bundles in plan.bundles.items()
    }
    placement = Placement(plan, groups, nodes)
    if all(group.wait(RESERVE_SECONDS) for group in groups.values()):
        return placement
    release(placement)
    return None


def release(placement: Placement) -> None:
    for group in placement.groups.values():
        remove_placement_group(group)
