"""Which node gets which bundle, and what is said where there is none."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from rto.cluster import nodes as nodes_module
from rto.cluster.nodes import Node, blocks, cluster_nodes, refusal, seat
from rto.cluster.plan import GroupSpec, Plan

GPU = {"CPU": 1.0, "GPU": 1.0}


def machines(*gpus: float, cpus: float = 64) -> list[Node]:
    total = [{"CPU": cpus, "GPU": count} for count in gpus]
    return [Node(f"n{i}", f"10.0.0.{i}", each, each) for i, each in enumerate(total)]


def plan(engines: int = 0, width: int = 1, **groups: tuple[int, int]) -> Plan:
    """Groups of (nodes, GPUs per node) of their own, and engines."""
    bundles = {name: [GPU] * (n * k) for name, (n, k) in groups.items()}
    nodes = {name: [node for node in range(n) for _ in range(k)] for name, (n, k) in groups.items()}
    if engines:
        bundles["engine"] = [{"CPU": 1.0, "GPU": float(width)}] * engines
    specs = {name: GroupSpec(len(each), 1.0, 1.0, name) for name, each in bundles.items()}
    return Plan(specs, bundles, "cuda", colocated=False, nodes=nodes)


def seated(given: Plan, there: list[Node]) -> dict[str, list[str]] | None:
    found = seat(given, {node.id: node.total for node in there})
    return {name: list(each) for name, each in found.nodes.items()} if found.left is None else None


def gpus_taken(given: Plan, seats: dict[str, list[str]]) -> Counter[str]:
    taken: Counter[str] = Counter()
    for name, each in seats.items():
        for bundle, node in zip(given.bundles[name], each, strict=True):
            taken[node] += int(bundle["GPU"])
    return taken


def test_the_ranks_of_a_node_are_together_and_those_of_two_nodes_are_not() -> None:
    """Two nodes of 4 would fit on one of 8."""
    assert seated(plan(policy=(2, 4)), machines(8, 8)) == {"policy": ["n0"] * 4 + ["n1"] * 4}
    assert seated(plan(policy=(2, 4)), machines(8)) is None


def test_groups_share_nodes_rather_than_break_up_several() -> None:
    given = plan(policy=(1, 4), critic=(1, 4), scorer=(1, 4), engines=2, width=2)
    seats = seated(given, machines(8, 8, 8))
    assert seats is not None
    assert gpus_taken(given, seats) == {"n0": 8, "n1": 8}


def test_an_engine_has_its_gpus_on_one_node() -> None:
    """Of two nodes with 6, two are left on each."""
    assert seated(plan(engines=2, width=4), machines(6, 6)) == {"engine": ["n0", "n1"]}
    assert seated(plan(engines=3, width=4), machines(6, 6)) is None


def test_a_head_without_gpus_is_given_nothing_that_needs_one() -> None:
    seats = seated(plan(policy=(2, 8), engines=16), machines(0, 8, 8, 8, 8))
    assert seats is not None
    assert {node for each in seats.values() for node in each} == {"n1", "n2", "n3", "n4"}


def test_sixteen_nodes_of_eight_gpus_are_filled() -> None:
    given = plan(policy=(8, 8), scorer=(8, 4), engines=8, width=4)
    seats = seated(given, machines(0, *[8] * 16))
    assert seats is not None
    assert set(gpus_taken(given, seats).values()) == {8}
    assert len(gpus_taken(given, seats)) == 16
    for name in ("policy", "scorer"):
        where = list(zip(given.nodes[name], seats[name], strict=True))
        assert len(set(where)) == len({node for _, node in where}) == 8


def test_cores_count_as_gpus_do() -> None:
    assert seated(plan(policy=(1, 8)), machines(8, cpus=8)) is not None
    assert seated(plan(policy=(1, 8)), machines(8, cpus=7)) is None


def test_shares_of_a_core_add_up_as_ray_counts_them() -> None:
    """Three tenths are more than 0.3 in floating point."""
    bundles, nodes = {"policy": [{"CPU": 0.1}] * 3}, {"policy": [0, 0, 0]}
    given = Plan({}, bundles, "cpu", colocated=False, nodes=nodes)
    assert seated(given, machines(0, cpus=0.3)) is not None
    assert seated(given, machines(0, cpus=0.29)) is None


@pytest.mark.parametrize("free", [[8, 8], [8, 4, 2, 1], [4, 4, 2, 2, 2]])
def test_what_can_be_seated_is_where_the_sizes_divide_one_another(free: list[int]) -> None:
    """Compared with every way to fill the nodes: engines of 4, 2 and 1 GPUs."""
    for fours, twos, ones in itertools.product(range(4), range(5), range(3)):
        sizes = [4] * fours + [2] * twos + [1] * ones
        bundles = [{"CPU": 0.0, "GPU": float(size)} for size in sizes]
        given = Plan({}, {"engine": bundles}, "cuda", colocated=False)
        found = seated(given, machines(*free)) is not None
        assert found is possible(tuple(sizes), tuple(free)), (sizes, free)


def possible(sizes: tuple[int, ...], free: tuple[int, ...]) -> bool:
    if not sizes:
        return True
    first, rest = sizes[0], sizes[1:]
    return any(
        possible(rest, (*free[:i], room - first, *free[i + 1 :]))
        for i, room in enumerate(free)
        if room >= first
    )


def told(given: Plan, there: list[Node]) -> str:
    left = seat(given, {node.id: node.total for node in there}).left
    assert left is not None
    return refusal(given, left, there)


def test_a_refusal_says_what_there_is_and_what_is_asked() -> None:
    assert told(plan(policy=(2, 8), engines=4, width=2), machines(0, 8, cpus=16)) == (
        "the cluster has 1 node with 16 CPUs, 1 node with 8 GPUs and 16 CPUs; the run asks for "
        "2 nodes with 8 GPUs and 8 CPUs for policy; 4 x 2 GPUs and 1 CPU for engine. There is no "
        "node left for 8 GPUs and 8 CPUs of policy: ask for less (num_nodes, "
        "num_gpus_per_node of actor), or join more nodes"
    )


@pytest.mark.parametrize(
    ("given", "there", "remedy"),
    [
        (plan(engines=1, width=16), machines(8, 8), "engine: ask for less (vllm.num_engines, "
         "vllm.tensor_parallel_size), or join nodes with more GPUs"),
        (plan(policy=(1, 8)), machines(8, 8, cpus=4), "or join nodes with more CPUs"),
        (plan(policy=(3, 8)), machines(8, 8), "or join more nodes"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_would_help(given: Plan, there: list[Node], remedy: str) -> None:
    assert told(given, there).endswith(remedy)


def test_the_largest_blocks_come_first() -> None:
    found = blocks(plan(scorer=(2, 1), policy=(2, 4), engines=2, width=2))
    assert [(block.bundle_set, block.asks["GPU"]) for block in found] == [
        ("policy", 4), ("policy", 4), ("engine", 2), ("engine", 2), ("scorer", 1), ("scorer", 1),
    ]  # fmt: skip


def test_nodes_that_are_gone_or_not_there_yet_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(name: str, address: str, alive: bool = True) -> dict[str, Any]:
        return {
            "NodeID": name, "NodeManagerAddress": address, "Alive": alive, "Resources": {"CPU": 4.0}
        }  # fmt: skip

    listed = [entry("b", "10.0.0.2"), entry("a", "10.0.0.1"), entry("dead", "10.0.0.3", False)]
    listed.append(entry("new", "10.0.0.4"))
    free = {"a": {"CPU": 1.0}, "b": {"CPU": 4.0}, "dead": {}}
    monkeypatch.setattr(nodes_module.ray, "nodes", lambda: listed)
    monkeypatch.setattr(nodes_module, "available_resources_per_node", lambda: free)
    found = cluster_nodes()
    assert [(node.id, node.total["CPU"], node.free["CPU"]) for node in found] == [
        ("a", 4.0, 1.0), ("b", 4.0, 4.0),
    ]  # fmt: skip
