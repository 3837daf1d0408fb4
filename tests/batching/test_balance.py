from __future__ import annotations

import importlib.util
import random
import runpy
from pathlib import Path

import pytest

from rto.batching.balance import balanced_parts


def sums(tokens: list[int], parts: list[list[int]]) -> list[int]:
    return [sum(tokens[item] for item in part) for part in parts]


def test_heavy_items_meet_light_ones() -> None:
    # Differences: 8 - 7 = 1 and 6 - 5 = 1, then 4 - 1 = 3, 3 - 1 = 2: of 30 tokens, 16 and 14.
    tokens = [8, 7, 6, 5, 4]
    parts = balanced_parts(tokens, 2, equal=False)
    assert sorted(item for part in parts for item in part) == [0, 1, 2, 3, 4]
    assert sorted(sums(tokens, parts)) == [14, 16]


def test_equal_parts_hold_as_many_items() -> None:
    # 100 + 10 and 60 + 50 is the only even split into pairs.
    assert sorted(balanced_parts([100, 60, 50, 10], 2, equal=True)) == [[0, 3], [1, 2]]
    # Without the rule the 100 stays alone.
    assert [0] in balanced_parts([100, 30, 30, 40], 2, equal=False)


@pytest.mark.parametrize(("num_items", "equal"), [(3, False), (3, True), (6, True)])
def test_parts_that_cannot_be_are_refused(num_items: int, equal: bool) -> None:
    with pytest.raises(ValueError, match=f"{num_items} items for 4 parts"):
        balanced_parts([5] * num_items, 4, equal=equal)


def test_equals_openrlhfs_balancing_ties_included() -> None:
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or spec.origin is None:
        pytest.skip("openrlhf is not installed")
    file = Path(spec.origin).parent / "utils" / "seqlen_balancing.py"
    oracle = runpy.run_path(str(file))["get_seqlen_balanced_partitions"]
    rng = random.Random(0)
    for _ in range(300):
        num_parts, most = rng.choice([2, 3, 4, 8]), rng.choice([1, 3, 60, 4096])
        count = num_parts * rng.randint(1, 12)
        tokens = [rng.randint(1, most) for _ in range(count)]
        assert balanced_parts(tokens, num_parts, equal=True) == oracle(tokens, num_parts, True)
        tokens += [rng.randint(1, most) for _ in range(rng.randint(0, 5))]
        assert balanced_parts(tokens, num_parts, equal=False) == oracle(tokens, num_parts, False)
