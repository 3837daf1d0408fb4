from __future__ import annotations

from pathlib import Path

import pytest

from rto.errors import UserError
from rto.yaml_file import read_yaml


def test_what_settings_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: {b: [1, 2.5, null]}\nc: 'text'\n1: true\n")
    assert read_yaml(path) == {"a": {"b": [1, 2.5, None]}, "c": "text", 1: True}


BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", ":1: not YAML: expected"),
        ("a: 1\nb: {c: 1, c: 2}\n", ":2: not YAML: the key 'c' stands twice"),
        ("a: 1\na: 2\n", ":2: not YAML: the key 'a' stands twice"),
        (BOMB, ":2: not YAML: an alias"),
        ("a: " + "[" * 100_000, ":1: not YAML: more than 32 levels deep"),
        ("a: {b: " * 40 + "1" + "}" * 40, ":1: not YAML"),
        ("a: " + "9" * 5000, "not YAML: ValueError: Exceeds the limit"),
        ("a: !!python/object/apply:os.getcwd []", ":1: not YAML: could not determine"),
        ("a: 2026-99-99", "not YAML: ValueError"),
        ("{[1]: 2}", "not YAML: TypeError: unhashable type"),
        ("a: \x00", "not YAML"),
        ("a: \xff".encode("latin-1"), "not UTF-8 (byte 3): save it with that encoding"),
        ("a: 1".encode("utf-16"), "not UTF-8 (byte 0): save it with that encoding"),
        ("a: 1\n" * 300_000, "longer than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(UserError, match=f"{path}: cannot be read: .*Error"):
            read_yaml(path)
