"""What is told of a process, and what it is started with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rto import processes

NAME = "RTO_TEST_VARIABLE"


def test_state_and_parent_are_read_behind_a_name_of_any_characters(tmp_path: Path) -> None:
    (tmp_path / "stat").write_bytes(b"7 (a) b (\xff c) T 12 7 7\n")
    assert processes.stat_fields(tmp_path)[:2] == ["T", "12"]
    assert processes.parent(tmp_path) == 12
    assert processes.parent(Path("/proc/self")) == os.getppid()


def test_a_process_that_is_gone_has_no_fields(tmp_path: Path) -> None:
    assert processes.stat_fields(tmp_path) == []
    assert processes.parent(tmp_path) == 0


@pytest.mark.parametrize("before", [None, "", "mine"])
def test_what_is_started_within_has_the_variable(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    if before is not None:
        monkeypatch.setenv(NAME, before)
    words = [sys.executable, "-c", f"import os; print(os.environ[{NAME!r}])"]
    with processes.variable(NAME, "ours"):
        assert subprocess.check_output(words, text=True) == "ours\n"
    assert os.environ.get(NAME) == before
