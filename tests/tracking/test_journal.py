"""The journal's files: what is read after any end, and what is removed."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rto.tracking import journal as module
from rto.tracking.journal import HEAD, MAGIC, Journal, read_file


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def value(number: int) -> bytes:
    return random.Random(number).randbytes(40 + number)


def gives(number: int) -> Callable[[], bytes]:
    return lambda: value(number)


def silent(text: str) -> None:
    raise AssertionError(text)


def opened(folder: Path, *, first: int = 0, tell: Callable[[str], None] = silent) -> Journal:
    return Journal(folder / "journal", first=first, tell=tell)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "journal").iterdir())


def filled(folder: Path, count: int = 4) -> Path:
    """A journal of one file with the values of 0 to ``count``."""
    with opened(folder) as journal:
        for number in range(count):
            journal.put(key(number), gives(number))
    return folder / "journal" / "00000000.journal"


def found(journal: Journal) -> list[int]:
    return [number for number in range(9) if journal.get(key(number)) == value(number)]


def test_what_was_added_is_found_by_this_run_and_by_the_next(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.put(key(1), gives(1))
        assert key(1) in journal
        assert journal.get(key(1)) == value(1)
        assert key(2) not in journal
        assert journal.get(key(2)) is None
    with opened(tmp_path, first=5) as journal:
        assert journal.get(key(1)) == value(1)
        journal.put(key(2), gives(2))
    with opened(tmp_path) as journal:
        assert found(journal) == [1, 2]
    assert files(tmp_path) == ["00000000.journal"], "a run that goes on goes on with the file"


def test_a_key_keeps_its_first_value_and_is_written_once(tmp_path: Path) -> None:
    file = filled(tmp_path, 2)
    size = file.stat().st_size
    with opened(tmp_path) as journal:
        journal.put(key(0), silent_value)
        assert journal.get(key(0)) == value(0)
    assert file.stat().st_size == size == len(MAGIC) + 2 * HEAD.size + 40 + 41


def silent_value() -> bytes:
    raise AssertionError("encoded although it is there")


@pytest.mark.parametrize("cut", [1, 42, 43, 82, 83])
def test_a_record_that_was_not_written_to_its_end_is_cut_off(tmp_path: Path, cut: int) -> None:
    """The last record has 43 bytes of value behind 40 of its head."""
    file = filled(tmp_path)
    whole = file.stat().st_size
    with file.open("r+b") as opened_file:
        opened_file.truncate(whole - cut)
    with opened(tmp_path) as journal:
        assert found(journal) == [0, 1, 2]
        journal.put(key(5), gives(5))
    with opened(tmp_path) as journal:
        assert found(journal) == [0, 1, 2, 5]


def test_a_last_record_whose_bytes_did_not_all_arrive_is_cut_off(tmp_path: Path) -> None:
    file = filled(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-20] + bytes(20))
    with opened(tmp_path) as journal:
        assert found(journal) == [0, 1, 2]


@pytest.mark.parametrize("place", [0, 8, 24, 40, 70])
def test_behind_a_damaged_record_nothing_is_read_and_one_line_says_so(
    tmp_path: Path, place: int
) -> None:
    """Its length, its checksum, its key, the first and a later byte of its value."""
    file = filled(tmp_path)
    content = bytearray(file.read_bytes())
    second = len(MAGIC) + HEAD.size + 40
    content[second + place] ^= 1
    file.write_bytes(content)
    said = list[str]()
    with opened(tmp_path, tell=said.append) as journal:
        assert found(journal) == [0]
        journal.put(key(7), gives(7))
    assert said == [f"journal {file} is damaged at byte {second}: what follows is not used"]
    with opened(tmp_path) as journal:
        assert found(journal) == [0, 7]


@pytest.mark.parametrize("content", [b"", MAGIC[:5], MAGIC])
def test_a_file_that_was_just_begun_holds_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "00000003.journal").write_bytes(content)
    with opened(tmp_path) as journal:
        journal.put(key(0), gives(0))
    with opened(tmp_path) as journal:
        assert found(journal) == [0]


def test_a_file_of_something_else_is_not_used(tmp_path: Path) -> None:
    said = list[str]()
    (tmp_path / "x").write_bytes(b"rto journal 9\n" + bytes(100))
    assert read_file(tmp_path / "x", said.append) == {}
    assert said == [f"{tmp_path / 'x'} is no journal of this version: it is not used"]


def test_a_file_holds_what_came_up_between_two_checkpoints(tmp_path: Path) -> None:
    """A checkpoint after iterations 1, 3, 5: two of them are there at a time. Those that go on from
    the older one need all iterations behind it."""
    with opened(tmp_path) as journal:
        kept = dict[int, list[str]]()
        for iteration in range(8):
            steps = [step for step in (1, 3, 5) if step < iteration][-2:]
            journal.border(iteration, steps)
            journal.put(key(iteration), gives(iteration))
            journal.flush()
            kept[iteration] = [name.removesuffix(".journal") for name in files(tmp_path)]
        assert found(journal) == [4, 5, 6, 7]
    assert kept == {
        0: ["00000000"],
        1: ["00000000"],
        2: ["00000002"],
        3: ["00000002"],
        4: ["00000002", "00000004"],
        5: ["00000002", "00000004"],
        6: ["00000004", "00000006"],
        7: ["00000004", "00000006"],
    }
    with opened(tmp_path) as journal:
        assert found(journal) == [4, 5, 6, 7]


def test_a_run_that_falls_back_keeps_what_lies_before_it(tmp_path: Path) -> None:
    """It goes on from step 1, and the damaged checkpoint of step 3 is still there."""
    with opened(tmp_path) as journal:
        for iteration in range(6):
            journal.border(iteration, [step for step in (1, 3) if step < iteration])
            journal.put(key(iteration), gives(iteration))
    with opened(tmp_path, first=2) as journal:
        journal.border(2, [1, 3])
        journal.put(key(8), gives(8))
        assert found(journal) == [2, 3, 4, 5, 8]
    assert files(tmp_path) == ["00000002.journal", "00000004.journal"]


def test_what_was_removed_may_be_added_again(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.put(key(0), gives(0))
        journal.border(3, [2])
        journal.flush()
        assert key(0) not in journal
        journal.put(key(0), gives(0))
        assert found(journal) == [0]


def test_a_full_disk_ends_the_journal_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a record is written when the disk is full."""
    filled(tmp_path, 2)
    write, said = module._write, list[str]()

    def full(file: Any, content: bytes) -> None:
        write(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path, tell=said.append) as journal:
        monkeypatch.setattr(module, "_write", full)
        journal.put(key(2), gives(2))
        journal.flush()
        monkeypatch.setattr(module, "_write", write)
        journal.put(key(3), gives(3))
        assert found(journal) == [0, 1]
        journal.border(5, [4])
        journal.border(6, [4])
        journal.put(key(4), gives(4))
        assert found(journal) == [0, 1]
    assert said == [
        f"journal {tmp_path / 'journal'}: No space left on device: nothing is added to it any more"
    ]
    with opened(tmp_path) as journal:
        assert found(journal) == [0, 1]


def test_a_journal_does_not_grow_beyond_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    monkeypatch.setattr(module, "LIMIT", 250)
    with opened(tmp_path, tell=said.append) as journal:
        for number in range(4):
            journal.put(key(number), gives(number))
        assert found(journal) == [0, 1]
        journal.border(5, [4])
        journal.put(key(5), gives(5))
        assert found(journal) == [5], "a checkpoint made room"
    (line,) = said
    assert "bytes: nothing is added for now" in line


def test_what_fails_to_be_encoded_is_raised(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.put(key(0), silent_value)
    with pytest.raises(AssertionError, match="encoded although it is there"):
        journal.close()


def test_values_are_encoded_and_written_in_another_thread(tmp_path: Path) -> None:
    names = list[str]()

    def encode() -> bytes:
        names.append(threading.current_thread().name)
        return b""

    with opened(tmp_path) as journal:
        for number in range(30):
            journal.put(key(number), encode)
    assert len(names) == 30
    assert {name.split("_")[0] for name in names} == {"journal"}
