"""A run's actors from start to teardown, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rto.cluster import launch
from rto.cluster.build import Actors
from rto.cluster.node_checks import NodeNeeds, prepare_nodes
from rto.cluster.placement import Placement, release, reserve
from rto.cluster.plan import Plan
from rto.cluster.stall import Processes
from rto.sections.run_config import RunConfig
from rto.tracking.phases import tell

NOTHING = NodeNeeds()
JOIN_SECONDS = 60.0
"""How long after its head a cluster's last node may join: those of a batch job start together."""


@contextmanager
def session(
    config: RunConfig, plan: Plan, *, logs: Path, needs: NodeNeeds = NOTHING
) -> Iterator[Actors]:
    """Ray, the plan's bundles, and an empty set of actors on them; what they need is there.

    Leaves Ray as it was found: a cluster that was already joined stays joined, without the run's
    actors and bundles. Within ``warm_actors`` the processes wait for the next session.
    """
    if not launch.is_up():
        tell("starting Ray")
    started = launch.start(config.ray, device=plan.device, num_actors=plan.num_actors, log_dir=logs)
    try:
        actors = _actors(config, plan)
        actors.watch.processes = Processes(logs)
        with ExitStack() as undo:
            undo.callback(_tear_down, actors)
            prepare_nodes(actors.placement, needs)
            yield actors
            undo.pop_all()
        if _warm.on:
            actors.rest()
            _warm.waiting = actors
        else:
            _tear_down(actors)
    finally:
        if started:
            launch.stop()


@contextmanager
def warm_actors() -> Iterator[None]:
    """Within it, a session that ends well leaves its processes to those that come.

    They have imported everything, which takes longer than a short run. What they hold of a run,
    model, engine, weights, is built anew by the next one. On GPUs they serve runs of the same plan
    alone: a process keeps the devices that it was given.
    """
    _warm.on = True
    try:
        yield
    finally:
        _warm.on = False
        _drop_waiting()


@dataclass
class _Warm:
    on: bool = False
    waiting: Actors | None = None


_warm = _Warm()


def _actors(config: RunConfig, plan: Plan) -> Actors:
    # The processes of one machine's CPUs serve any plan, so none of its bundles is reserved.
    anywhere = _warm.on and plan.device == "cpu" and launch.cluster_address(config.ray) is None
    unreserved = Placement(plan, {}) if anywhere else None
    waiting = _warm.waiting
    if waiting is not None and _serves(waiting.placement, plan, anywhere=anywhere):
        _warm.waiting = None
        return waiting.renewed(config, unreserved or waiting.placement)
    _drop_waiting()
    timeout = config.ray.start_seconds(plan.device)
    joining = 0.0 if launch.cluster_address(config.ray) is None else JOIN_SECONDS
    return Actors(config, unreserved or reserve(plan, timeout=timeout, joining=joining))


def _serves(placement: Placement, plan: Plan, *, anywhere: bool) -> bool:
    """Whether processes that wait in this placement can take up the plan."""
    return placement.plan == plan or (anywhere and not placement.groups)


def _drop_waiting() -> None:
    if _warm.waiting is not None:
        _tear_down(_warm.waiting)
        _warm.waiting = None


def _tear_down(actors: Actors) -> None:
    if launch.dead_server() is not None:
        # Its processes end with Ray, which would be asked in vain to end them.
        return
    actors.kill()
    release(actors.placement)
