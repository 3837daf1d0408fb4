"""A session from Ray's start to its end: what is torn down, what waits, and after what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from handles import Handle

from rto.cluster import build, launch
from rto.cluster import session as session_module
from rto.cluster.build import Actors
from rto.cluster.groups import ActorGroup
from rto.cluster.node_checks import NodeNeeds
from rto.cluster.placement import Placement
from rto.cluster.plan import GroupSpec, Plan
from rto.cluster.session import session, warm_actors
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Cluster

CONFIG = RunConfig()
CPU = Plan({"policy": GroupSpec(1, 1.0, 0.0, "policy")}, {}, "cpu", colocated=False)
OTHER = Plan({"policy": GroupSpec(2, 1.0, 0.0, "policy")}, {}, "cpu", colocated=False)
GPU = Plan({"policy": GroupSpec(1, 1.0, 1.0, "policy")}, {}, "cuda", colocated=False)
GPUS = Plan({"policy": GroupSpec(2, 1.0, 1.0, "policy")}, {}, "cuda", colocated=False)


@dataclass
class Ray:
    """Whether this process is connected, and the bundles that are taken."""

    up: bool = False
    bundles: list[Plan] = field(default_factory=list)
    killed: list[Handle] = field(default_factory=list)
    limits: list[tuple[float, float]] = field(default_factory=list)
    """How long room for actors, and nodes that join, were waited for."""

    def start(self, settings: Any, **options: Any) -> bool:
        joined, self.up = self.up, True
        return not joined

    def stop(self) -> None:
        self.up = False

    def reserve(self, plan: Plan, *, timeout: float, joining: float) -> Placement:
        self.bundles.append(plan)
        self.limits.append((timeout, joining))
        return Placement(plan, {"policy": object()})  # pyright: ignore

    def release(self, given: Placement) -> None:
        if given.groups:
            self.bundles.remove(given.plan)

    def kill(self, handle: Handle) -> None:
        self.killed.append(handle)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    found = Ray()
    monkeypatch.setattr(launch, "is_up", lambda: found.up)
    monkeypatch.setattr(launch, "start", found.start)
    monkeypatch.setattr(launch, "stop", found.stop)
    monkeypatch.setattr(launch, "cluster_address", lambda settings: None)
    monkeypatch.setattr(session_module, "reserve", found.reserve)
    monkeypatch.setattr(session_module, "release", found.release)
    monkeypatch.setattr(build.ray, "kill", found.kill)
    return found


def one_run(plan: Plan = CPU, *, fails: bool = False) -> Actors:
    """A session with a group of one process, unless it has one from the run before."""
    with session(CONFIG, plan, logs=Path()) as actors:
        crews: Sequence[Any] = actors.idle.pop(("trainer", 1), [[Handle()]])
        actors.groups["policy"] = ActorGroup("policy", crews[0], 1.0)
        if fails:
            raise RuntimeError("diverged")
    return actors


def process(actors: Actors) -> Any:
    return actors.groups["policy"].actors[0]


@pytest.mark.parametrize("fails", [False, True])
def test_a_session_leaves_nothing_behind_however_it_ends(ray: Ray, fails: bool) -> None:
    if fails:
        with pytest.raises(RuntimeError, match="diverged"):
            one_run(fails=True)
    else:
        one_run()
    assert (len(ray.killed), ray.bundles, ray.up) == (1, [], False)


def test_a_ray_that_has_died_is_asked_for_nothing(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be waited for in vain."""
    monkeypatch.setattr(launch, "dead_server", lambda: "Ray's head was killed")
    with pytest.raises(RuntimeError, match="diverged"):
        one_run(fails=True)
    assert (ray.killed, ray.up) == ([], False)


def test_a_cluster_that_was_joined_before_stays_joined(ray: Ray) -> None:
    ray.up = True
    one_run()
    assert (len(ray.killed), ray.bundles, ray.up) == (1, [], True)


def test_bundles_that_cannot_be_had_leave_no_ray_behind(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(plan: Plan, **limits: float) -> Placement:
        raise ValueError("full")

    monkeypatch.setattr(session_module, "reserve", full)
    with pytest.raises(ValueError, match="full"):
        one_run()
    assert not ray.up


def test_nodes_are_ready_before_a_run_has_its_actors(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Placement, NodeNeeds]] = []
    needs = NodeNeeds({"policy": ["m"]})
    monkeypatch.setattr(session_module, "prepare_nodes", lambda *given: asked.append(given))
    with session(CONFIG, CPU, logs=Path(), needs=needs) as actors:
        assert asked == [(actors.placement, needs)]

    def lacks(placement: Placement, needs: NodeNeeds) -> None:
        raise ValueError("lacks a model")

    monkeypatch.setattr(session_module, "prepare_nodes", lacks)
    with pytest.raises(ValueError, match="lacks a model"):
        one_run()
    assert (ray.bundles, ray.up) == ([], False)


@pytest.mark.parametrize(("plan", "given", "limit"), [
    (CPU, None, 300), (GPU, None, 1200), (GPU, 7.5, 7.5),
])  # fmt: skip
def test_how_long_actors_may_take_depends_on_what_they_start_on(
    ray: Ray, plan: Plan, given: float | None, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address, joining in ((None, 0), ("10.0.0.1:6379", 60)):
        monkeypatch.setattr(launch, "cluster_address", lambda settings, found=address: found)
        config = RunConfig(ray=Cluster(start_timeout=given))
        with session(config, plan, logs=Path()) as actors:
            pending = Waited()
            actors.starting.append(pending)  # pyright: ignore
            actors.wait()
        assert ray.limits.pop() == (limit, joining), "only a cluster that is joined may still grow"
        assert pending.limit == limit


@dataclass
class Waited:
    """Actors that are ready at once; notes how long they would be waited for."""

    group: ActorGroup = field(default_factory=lambda: ActorGroup("policy", [], 1.0))
    limit: float | None = None

    def get(self, timeout: float) -> None:
        self.limit = timeout


def test_warm_processes_serve_the_next_run_and_end_with_the_last(ray: Ray) -> None:
    ray.up = True
    with warm_actors():
        first, second = one_run(), one_run()
        assert process(second) is process(first)
        assert ("rest",) in process(first).calls
        assert ray.killed == []
    assert ray.killed == [process(first)]
    assert process(one_run()) is not process(first), "outside, each run has processes of its own"


def test_a_run_that_fails_leaves_no_warm_process(ray: Ray) -> None:
    ray.up = True
    with warm_actors():
        with pytest.raises(RuntimeError, match="diverged"):
            one_run(fails=True)
        assert len(ray.killed) == 1


@pytest.mark.parametrize(
    ("first", "second", "kept", "bundles"),
    [(CPU, OTHER, True, []), (GPU, GPU, True, [GPU]), (GPU, GPUS, False, [GPUS])],
    ids=["any plan of CPUs", "the same plan of GPUs", "another plan of GPUs"],
)
def test_warm_processes_of_gpus_serve_their_own_plan_alone(
    ray: Ray, first: Plan, second: Plan, kept: bool, bundles: list[Plan]
) -> None:
    """Those of a machine's CPUs need no bundles."""
    ray.up = True
    with warm_actors():
        before = one_run(first)
        after = one_run(second)
        assert (process(after) is process(before)) is kept
        assert ray.bundles == bundles
        assert len(ray.killed) == (0 if kept else 1)
    assert ray.bundles == []
