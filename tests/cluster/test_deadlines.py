"""How long a call may take: by its name, which must be one of an actor's."""

from __future__ import annotations

import pytest

from rto.cluster.actors import EngineActor, ScorerActor, TrainerActor
from rto.cluster.deadlines import MOVING, QUICK, limit_of


@pytest.mark.parametrize(
    ("method", "longest", "limit"),
    [
        ("accept", 1800, 120), ("accept", 5, 5), ("load_weights", 1800, 600),
        ("load_weights", 60, 60), ("generate", 1800, 1800), ("update", 1800, 1800),
    ],
)  # fmt: skip
def test_no_call_takes_longer_than_its_work(method: str, longest: float, limit: float) -> None:
    assert limit_of(method, longest) == limit


@pytest.mark.parametrize("method", sorted(QUICK | MOVING))
def test_every_name_is_a_method_of_an_actor(method: str) -> None:
    assert any(hasattr(actor, method) for actor in (TrainerActor, ScorerActor, EngineActor))


def test_a_name_stands_once() -> None:
    assert not QUICK & MOVING
