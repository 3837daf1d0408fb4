"""Points at which a test kills a process: the one and the passage that the plan names, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PASSES = """
from rto.crash import crash_point
for point in ("a.b", "c", "a.b", "c"):
    crash_point(point)
    print(point, flush=True)
"""


def passed(plan: Path | None) -> tuple[int, list[str]]:
    env = {**os.environ, **({} if plan is None else {"RTO_CRASH": str(plan)})}
    done = subprocess.run([sys.executable, "-c", PASSES], env=env, capture_output=True, text=True)
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("plan", "before"),
    [("a.b:1", []), ("a.b:2", ["a.b", "c"]), ("c", ["a.b"]), ("c:2\n", ["a.b", "c", "a.b"])],
)
def test_a_process_is_killed_where_the_plan_says_and_the_next_one_lives(
    plan: str, before: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "plan"
    path.write_text(plan)
    assert passed(path) == (-9, before)
    assert not path.exists()
    assert passed(path) == (0, ["a.b", "c", "a.b", "c"])


def test_what_no_plan_names_lives(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    path.write_text("a.b:3")
    assert passed(path)[0] == 0
    path.write_text("other")
    assert passed(path)[0] == 0
    assert path.read_text() == "other"
    assert passed(None)[0] == 0
