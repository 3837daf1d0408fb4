"""Settings of a plan: numbers of nodes as they are written, and what needs GPUs to be named."""

from __future__ import annotations

import pytest

from rto.errors import UserError
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Planned

GPUS = "8xA100-80"


@pytest.mark.parametrize(
    ("written", "counts"),
    [
        ("1", (1,)),
        ("3", (3,)),
        ("1..8", (1, 2, 4, 8)),
        ("3..12", (3, 4, 8, 12)),
        ("4..4", (4,)),
        ("1..128", (1, 2, 4, 8, 16, 32, 64, 128)),
    ],
)
def test_a_range_has_its_ends_and_powers_of_two(written: str, counts: tuple[int, ...]) -> None:
    assert Planned(gpus=GPUS, nodes=written).node_counts == counts
    RunConfig(plan=Planned(gpus=GPUS, nodes=written))


@pytest.mark.parametrize("written", ["0", "8..2", "1-8", "1..", "..8", "10000", "2x8", "1..2..4"])
def test_other_texts_are_refused(written: str) -> None:
    with pytest.raises(UserError, match="write a number of nodes from 1 to 9999, or a range"):
        RunConfig(plan=Planned(gpus=GPUS, nodes=written))


@pytest.mark.parametrize(
    ("name", "given"), [("nodes", Planned(nodes="2")), ("from_run", Planned(from_run="2"))]
)
def test_time_is_of_gpus_that_are_named(name: str, given: Planned) -> None:
    with pytest.raises(UserError, match=f"plan.{name} is set and plan.gpus is not"):
        RunConfig(plan=given)
