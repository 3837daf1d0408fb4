"""Text for one line."""

from __future__ import annotations

import pytest

from rto.text import one_line


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        (" a\n\tb  c\r\n", 1000, "a b c"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abc..."),
        ("a     b", 3, "a b"),
        ("", 10, ""),
    ],
)
def test_white_space_is_one_space_and_what_is_too_long_is_cut(
    text: str, limit: int, expected: str
) -> None:
    assert one_line(text, limit) == expected
