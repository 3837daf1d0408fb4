"""A driver that is killed at a bad moment goes on, in its next process, to the same end."""

from __future__ import annotations

from pathlib import Path

import pytest
from bigram_runs import left_of, model_folder
from crashing import ended


@pytest.mark.timeout(120)
def test_a_killed_driver_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """More points: tests/faults/test_kills.py."""
    model, plan = model_folder(tmp_path), tmp_path / "plan"
    assert ended("online", tmp_path / "whole", model, plan) == 0
    plan.write_text("checkpoint.before_commit:2")
    assert ended("online", tmp_path / "killed", model, plan) == -9
    assert ended("online", tmp_path / "killed", model, plan) == 0
    assert left_of(tmp_path / "killed") == left_of(tmp_path / "whole")
