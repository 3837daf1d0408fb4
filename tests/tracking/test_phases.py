"""What a run waits for is said beside its other words; stderr is for the line of an error."""

from __future__ import annotations

import re

import pytest

from rto.tracking.phases import begin, tell


def test_phases_are_lines_of_stdout_with_the_seconds_so_far(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin("rto sft: sft from m")
    tell("importing libraries")
    said = capsys.readouterr()
    assert said.err == ""
    title, phase = said.out.splitlines()
    assert title == "rto sft: sft from m"
    assert re.fullmatch(r"\[  0 s\] importing libraries", phase)
