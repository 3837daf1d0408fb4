"""What --plan.gpus describes."""

from __future__ import annotations

import pytest

from rto.errors import UserError
from rto.planning.machine import planned_capacity
from rto.sections.runtime import Planned

GIB = 1024**3


@pytest.mark.parametrize(
    ("gpus", "per_node", "nodes", "gib"),
    [
        ("8xA100-80", 8, 1, 79.1),
        ("1xH100", 1, 1, 79.1),
        ("2x8xH200", 8, 2, 139.8),
        ("8xA100-40", 8, 1, 39.4),
        ("8xa100", 8, 1, 79.1),
        ("16xH100", 8, 2, 79.1),
        ("4xMI300X-192", 4, 1, 192 * 0.985),
    ],
)
def test_nodes_and_cards(gpus: str, per_node: int, nodes: int, gib: float) -> None:
    found = planned_capacity(Planned(gpus))
    assert (found.per_node, found.nodes, found.gpus) == (per_node, nodes, per_node * nodes)
    assert found.gpu == pytest.approx(gib * GIB)
    assert Planned(gpus).num_gpus == per_node * nodes


def test_host_memory_is_the_usual_one_or_as_told() -> None:
    assert planned_capacity(Planned("8xA100-80")).host == 1152 * GIB
    assert planned_capacity(Planned("2x8xH100")).host == 2048 * GIB
    assert planned_capacity(Planned("8xMI300X-192")).host == 8 * 64 * GIB
    assert planned_capacity(Planned("8xA100-80", host_gib=512)).host == 512 * GIB


def test_an_unknown_card_needs_its_memory() -> None:
    with pytest.raises(
        UserError, match=r"the memory of MI300X .*A100-40.*: write it .*8xMI300X-80"
    ):
        planned_capacity(Planned("8xMI300X"))
