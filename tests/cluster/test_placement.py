"""Where a plan's actors sit, and what is said of a plan that the cluster cannot hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from rto.cluster import placement
from rto.cluster.placement import Placement, reserve
from rto.cluster.plan import GroupSpec, Plan
from rto.errors import UserError

PLAN = Plan(
    groups={
        "policy": GroupSpec(2, 1.0, 0.2, "shared"),
        "engine": GroupSpec(2, 1.0, 0.0, "shared", first_bundle=1, bundles_per_actor=2),
        "scorer": GroupSpec(1, 0.5, 1.0, "scorer"),
    },
    bundles={"shared": [{"CPU": 2.0, "GPU": 1.0}] * 5, "scorer": [{"CPU": 0.5, "GPU": 1.0}]},
    device="cuda",
    colocated=True,
)


@dataclass
class Clock:
    """Time passes as bundles are waited for."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass(eq=False)
class Bundles:
    """A placement group that is there after ``takes`` seconds; notes how long it is waited for."""

    asked: list[dict[str, float]]
    clock: Clock
    takes: float = 0.0
    waits: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.clock.now += min(seconds, self.takes)
        return self.takes <= seconds


def reserved(monkeypatch: pytest.MonkeyPatch, *takes: float) -> list[Bundles]:
    """Placement groups that take so long, in the order in which they are asked for."""
    clock, made, left = Clock(), list[Bundles](), iter(takes)

    def placement_group(bundles: list[dict[str, float]]) -> Bundles:
        made.append(Bundles(bundles, clock, next(left)))
        return made[-1]

    monkeypatch.setattr(placement, "placement_group", placement_group)
    monkeypatch.setattr(placement, "time", clock)
    monkeypatch.setattr(placement, "cluster_resources", lambda: {"CPU": 4.0})
    return made


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
    assert Placement(PLAN, {}).options("engine", 1) == {"num_cpus": 0, "max_restarts": 0}


def test_every_bundle_of_the_plan_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    made = reserved(monkeypatch, 0, 0)
    found = reserve(PLAN, timeout=5)
    assert found.groups == {"shared": made[0], "scorer": made[1]}
    assert [each.asked for each in made] == list(PLAN.bundles.values())


def test_all_bundles_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = reserved(monkeypatch, 4, 0.5)
    reserve(PLAN, timeout=6)
    assert [each.waits for each in made] == [[6], [2]]


def test_a_plan_that_does_not_fit_is_told_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five bundles of 2 CPUs and 1 GPU, and one of a half and 1."""
    reserved(monkeypatch, 0, 99)
    with pytest.raises(UserError) as caught:
        reserve(PLAN, timeout=5)
    assert str(caught.value).startswith(
        "the cluster has 4 CPUs and 0 GPUs, the run asks for 10.5 and 6: use fewer ranks"
    )
