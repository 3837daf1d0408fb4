"""Digests of values, and equal ones found without the values."""

from __future__ import annotations

import numpy as np
import pytest

from rto.data.storage.keys import digest, numbered


def test_equal_values_have_one_digest_whatever_the_order_of_their_keys() -> None:
    assert digest({"role": "user", "content": "x"}) == digest({"content": "x", "role": "user"})
    assert len(digest("x")) == 16


@pytest.mark.parametrize(
    ("one", "other"),
    [(("ab",), ("a", "b")), ((1,), ("1",)), (([1, 2],), ([2, 1],)), (("",), ())],
    ids=["two texts", "a number", "the order", "nothing"],
)
def test_values_that_differ_have_other_digests(
    one: tuple[object, ...], other: tuple[object, ...]
) -> None:
    assert digest(*one) != digest(*other)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [([7, 3, 7, 5, 3], [0, 1, 0, 2, 1]), ([2, 1, 0], [0, 1, 2]), ([], [])],
)
def test_keys_are_numbered_as_they_first_appear(keys: list[int], expected: list[int]) -> None:
    assert numbered(np.array(keys, int)).tolist() == expected
