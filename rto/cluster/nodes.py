"""The nodes of a Ray cluster, and which of them holds which bundle of a plan: arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ray
from ray._private.state import available_resources_per_node

from rto.cluster.plan import Plan

RESOURCES = ("GPU", "CPU")
GRAIN = 1e-4
"""What Ray's resources are counted in."""

SECTIONS = {"policy": "actor", "critic": "critic", "scorer": "ref"}
"""Group -> the section whose num_nodes and num_gpus_per_node say how large it is."""

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: what it has, and what of that nobody has reserved."""

    id: str
    address: str
    total: Resources
    free: Resources


def cluster_nodes() -> list[Node]:
    """The nodes that are alive, by address: ranks come to the same ones whenever a run starts."""
    free = available_resources_per_node()
    nodes = [
        Node(each["NodeID"], each["NodeManagerAddress"], each["Resources"], free[each["NodeID"]])
        for each in ray.nodes()
        if each["Alive"] and each["NodeID"] in free
    ]
    return sorted(nodes, key=lambda node: (node.address, node.id))


@dataclass(frozen=True)
class Block:
    """Bundles of one set that are to be on one node."""

    bundle_set: str
    bundles: tuple[int, ...]
    asks: Resources
    alone: bool
    """Whether its node is to hold no other block of the set."""

    def fits(self, room: Resources) -> bool:
        return all(self.asks[each] <= room.get(each, 0) + GRAIN / 2 for each in RESOURCES)


def blocks(plan: Plan) -> list[Block]:
    """All bundles of the plan, the largest blocks first: more GPUs, then more cores."""
    found = [
        Block(name, each, _sum([plan.bundles[name][i] for i in each]), name in plan.nodes)
        for name in plan.bundles
        for each in _together(plan, name)
    ]
    return sorted(found, key=lambda block: [-block.asks[each] for each in RESOURCES])


def _together(plan: Plan, bundle_set: str) -> Iterator[tuple[int, ...]]:
    count = len(plan.bundles[bundle_set])
    numbers = plan.nodes.get(bundle_set, range(count))
    for node in sorted(set(numbers)):
        yield tuple(i for i in range(count) if numbers[i] == node)


def _sum(bundles: Sequence[Resources]) -> dict[str, float]:
    return {each: sum(bundle.get(each, 0.0) for bundle in bundles) for each in RESOURCES}


@dataclass(frozen=True)
class Seating:
    """``nodes``: set -> the id of the node of each bundle. ``left`` is the first block that no node
    has room for; None where all are seated."""

    nodes: Mapping[str, Sequence[str]]
    left: Block | None = None


def seat(plan: Plan, rooms: Mapping[str, Resources]) -> Seating:
    """Give each bundle a node; ``rooms`` has what the nodes have to give, by id.

    The largest block first, each on the node that it fills best: groups of some GPUs share a node
    rather than break up several. Where the numbers of GPUs divide one another, as 1, 2, 4 and 8 do,
    that finds a seating wherever there is one; in others it may miss one.
    """
    rooms = {node: _sum([room]) for node, room in rooms.items()}
    seats = {name: [""] * len(bundles) for name, bundles in plan.bundles.items()}
    for block in blocks(plan):
        taken = set(seats[block.bundle_set]) if block.alone else set[str]()
        best = _best({node: room for node, room in rooms.items() if node not in taken}, block)
        if best is None:
            return Seating(seats, left=block)
        rooms[best] = {each: rooms[best][each] - block.asks[each] for each in RESOURCES}
        for bundle in block.bundles:
            seats[block.bundle_set][bundle] = best
    return Seating(seats)


def _best(rooms: Mapping[str, Resources], block: Block) -> str | None:
    """The node that a block fills best; None where it fits nowhere."""
    able = [node for node, room in rooms.items() if block.fits(room)]
    return min(able, key=lambda node: [rooms[node][each] for each in RESOURCES], default=None)


def refusal(plan: Plan, left: Block, nodes: Sequence[Node]) -> str:
    """Why the whole cluster cannot hold the plan: what there is, what is asked, what to change."""
    have = Counter(_told(_sum([node.total])) for node in nodes)
    there = ", ".join(f"{_nodes(count)} with {each}" for each, count in have.items())
    sets = {block.bundle_set: _asked(plan, block.bundle_set) for block in blocks(plan)}
    return (
        f"the cluster has {there}; the run asks for {'; '.join(sets.values())}. There is no node "
        f"left for {_told(left.asks)} of {' + '.join(members(plan, left.bundle_set))}: "
        f"{_remedy(plan, left, nodes)}"
    )


def _remedy(plan: Plan, left: Block, nodes: Sequence[Node]) -> str:
    sized = [SECTIONS[name] for name in members(plan, left.bundle_set) if name in SECTIONS]
    settings = "vllm.num_engines, vllm.tensor_parallel_size"
    if sized:
        settings = f"num_nodes, num_gpus_per_node of {', '.join(sized)}"
    wide = [node for node in nodes if node.total.get("GPU", 0) >= left.asks["GPU"]]
    if not wide:
        join = "nodes with more GPUs"
    elif not any(left.fits(node.total) for node in wide):
        join = "nodes with more CPUs"
    else:
        join = "more nodes"
    return f"ask for less ({settings}), or join {join}"


def members(plan: Plan, bundle_set: str) -> list[str]:
    """The groups that sit in a set."""
    return [name for name, spec in plan.groups.items() if spec.bundle_set == bundle_set]


def _asked(plan: Plan, bundle_set: str) -> str:
    """``2 nodes with 8 GPUs and 32 CPUs for policy``, ``4 x 2 GPUs and 1 CPU for engine``."""
    mine = [block for block in blocks(plan) if block.bundle_set == bundle_set]
    counts = Counter(_told(block.asks) for block in mine)
    parts = [
        f"{_nodes(count)} with {each}" if mine[0].alone else f"{count} x {each}"
        for each, count in counts.items()
    ]
    return f"{' and '.join(parts)} for {' + '.join(members(plan, bundle_set))}"


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _told(resources: Resources) -> str:
    parts = [
        f"{resources[each]:g} {each}{'s' * (resources[each] != 1)}"
        for each in RESOURCES
        if resources[each] or each == "CPU"
    ]
    return " and ".join(parts)
