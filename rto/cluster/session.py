"""A run's actors from start to teardown, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rto.cluster import launch
from rto.cluster.plan import Plan
from rto.config import RunConfig

if TYPE_CHECKING:
    from rto.cluster.build import Actors


@contextmanager
def session(config: RunConfig, plan: Plan, *, logs: Path) -> Iterator[Actors]:
    """Ray, the plan's bundles, and an empty set of actors on them.

    Leaves Ray as it was found: a cluster that was already joined stays joined, without the run's
    actors and bundles.
    """
    started = launch.start(config.ray, num_actors=plan.num_actors, log_dir=logs)
    try:
        from rto.cluster.build import Actors
        from rto.cluster.placement import release, reserve

        placement = reserve(plan, timeout=config.ray.start_timeout)
        actors = Actors(config, placement)
        try:
            yield actors
        finally:
            actors.kill()
            release(placement)
    finally:
        if started:
            launch.stop()
