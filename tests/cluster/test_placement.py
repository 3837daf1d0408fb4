"""Where a plan's actors sit, and what is said of a plan that the cluster cannot hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from rto.cluster import placement
from rto.cluster.nodes import Node
from rto.cluster.placement import Placement, reserve
from rto.cluster.plan import GroupSpec, Plan
from rto.errors import UserError

PLAN = Plan(
    groups={
        "policy": GroupSpec(2, 1.0, 0.2, "shared", [0, 1]),
        "engine": GroupSpec(2, 1.0, 0.0, "shared", [1, 3]),
        "scorer": GroupSpec(1, 0.5, 1.0, "scorer"),
    },
    bundles={"shared": [{"CPU": 2.0, "GPU": 1.0}] * 4, "scorer": [{"CPU": 0.5, "GPU": 1.0}]},
    device="cuda",
    colocated=True,
    nodes={"shared": [0, 0, 1, 1]},
)


@dataclass
class Machines:
    """A cluster of two nodes with 8 CPUs each: time passes as it is waited for."""

    gpus: int = 3
    joins_at: float = 0.0
    """When the second node is there."""
    free_at: float = 0.0
    """When other work ends."""
    refused: int = 0
    """How many groups of bundles are not to be had, because other work was faster."""
    now: float = 0.0
    asked: list[Any] = field(default_factory=list)
    removed: list[Any] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def nodes(self) -> list[Node]:
        total = {"CPU": 8.0, "GPU": float(self.gpus)}
        free = total if self.now >= self.free_at else {"CPU": 8.0, "GPU": 1.0}
        names = "ab" if self.now >= self.joins_at else "a"
        return [Node(name, name, total, free) for name in names]

    def placement_group(self, bundles: list[dict[str, float]], **options: Any) -> Bundles:
        self.asked.append((bundles, options))
        return Bundles(self, there=len(self.asked) > self.refused)


@dataclass(eq=False)
class Bundles:
    machines: Machines
    there: bool

    def wait(self, seconds: float) -> bool:
        self.machines.now += 0 if self.there else seconds
        return self.there


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    found = Machines()
    monkeypatch.setattr(placement, "time", found)
    monkeypatch.setattr(placement, "tell", found.told.append)
    monkeypatch.setattr(placement, "cluster_nodes", found.nodes)
    monkeypatch.setattr(placement, "placement_group", found.placement_group)
    monkeypatch.setattr(placement, "remove_placement_group", found.removed.append)
    return found


@pytest.mark.parametrize(
    ("group", "rank", "bundles", "bundle", "gpus"),
    [
        ("policy", 0, "shared", 0, 0.2),
        ("policy", 1, "shared", 1, 0.2),
        ("engine", 0, "shared", 1, 0.0),
        ("engine", 1, "shared", 3, 0.0),
        ("scorer", 0, "scorer", 0, 1.0),
    ],
)
def test_an_actor_sits_on_the_first_of_its_bundles(
    group: str, rank: int, bundles: str, bundle: int, gpus: float
) -> None:
    sets: dict[str, Any] = {"shared": object(), "scorer": object()}
    options = Placement(PLAN, sets).options(group, rank)
    strategy: Any = options["scheduling_strategy"]
    assert strategy.placement_group is sets[bundles]
    assert strategy.placement_group_bundle_index == bundle
    assert (options["num_cpus"], options["num_gpus"]) == (PLAN.groups[group].num_cpus, gpus)
    assert options["max_restarts"] == 0, "a rank that comes back would have lost its weights"


def test_without_bundles_an_actor_is_free_to_sit_anywhere() -> None:
    free = Placement(PLAN, {})
    assert free.options("engine", 1) == {"num_cpus": 0, "max_restarts": 0}
    assert free.nodes_of("engine") == []


def test_every_bundle_of_the_plan_is_bound_to_its_node(machines: Machines) -> None:
    found = reserve(PLAN, timeout=5)
    assert list(found.groups) == list(found.nodes) == ["shared", "scorer"]
    assert [bundles for bundles, _ in machines.asked] == list(PLAN.bundles.values())
    labels = [
        [each["ray.io/node-id"] for each in options["bundle_label_selector"]]
        for _, options in machines.asked
    ]
    assert labels == list(found.nodes.values()) == [["a", "a", "b", "b"], ["a"]]
    assert (found.nodes_of("policy"), found.nodes_of("engine")) == (["a", "a"], ["a", "b"])
    assert (machines.removed, machines.told) == ([], [])


def test_what_the_cluster_cannot_hold_is_refused_at_once(machines: Machines) -> None:
    machines.gpus = 1
    with pytest.raises(UserError, match="cluster has 2 nodes with 1 GPU and 8 CPUs; the run asks"):
        reserve(PLAN, timeout=1000)
    assert (machines.asked, machines.now) == ([], 0)


def test_nodes_that_join_late_are_waited_for_where_some_may(machines: Machines) -> None:
    machines.joins_at = 30.0
    with pytest.raises(UserError, match="cluster has 1 node with 3 GPUs"):
        reserve(PLAN, timeout=1000)
    assert machines.now == 0
    assert reserve(PLAN, timeout=1, joining=60).nodes["shared"] == ["a", "a", "b", "b"]
    assert 30 <= machines.now < 31
    assert machines.told == ["waiting for more nodes to join the cluster"]
    machines.now, machines.joins_at = 0.0, 1000.0
    with pytest.raises(UserError, match="cluster has 1 node with 3 GPUs"):
        reserve(PLAN, timeout=1000, joining=60)
    assert 60 <= machines.now < 61


def test_other_work_is_waited_for(machines: Machines) -> None:
    machines.free_at = 30.0
    assert reserve(PLAN, timeout=60).nodes["scorer"] == ["a"]
    assert 30 <= machines.now < 31
    assert machines.told == ["waiting for what other work holds in the cluster"]


def test_other_work_is_not_waited_for_without_end(machines: Machines) -> None:
    machines.free_at = 1000.0
    with pytest.raises(UserError, match="for 60 s now: wait .* longer ray.start_timeout"):
        reserve(PLAN, timeout=60)
    assert machines.asked == []


def test_where_other_work_was_faster_nothing_stays_reserved(machines: Machines) -> None:
    machines.refused = 1
    found = reserve(PLAN, timeout=60)
    assert len(machines.asked) == 4
    assert len(machines.removed) == 2
    assert not set(machines.removed) & set(found.groups.values())
