"""`rto rollouts show`: rows of either kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sampled_pair import two_rollouts

from rto.cli.main import main
from rto.tracking.rollout_write import rollout_columns, write_rollouts
from run_folders import rollout, write_iteration, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Iterations 0 and 1 by an earlier version, 2 by this one."""
    folder = write_run(tmp_path / "a", iterations=2)
    path = folder / "rollouts" / "iter_000002.parquet"
    write_rollouts(path, rollout_columns(*two_rollouts()))
    return folder


def test_the_last_iteration_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "show", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "prompt 7.0 | 2 tokens | dpo -0.3235 | reward 0.2500",
        "  prompt: Häuser?",
        r"  response: a\x1b[31m",
        "",
        "prompt 7.1 | 1 tokens, cut | dpo -3.000 | reward -1.500",
        "  prompt: Häuser?",
        r"  response: b\ud800",
        "",
    ]


def test_an_iteration_and_a_number_of_rows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "show", str(run), "--iteration", "1", "--rows", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("response:") == 1
    assert "one two 0 1" in said


def test_all_of_a_row_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "show", str(run), "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["scores"]["critic"] == {"tokens": [0.5, 0.75]}
    assert second["response_ids"] == [8]


def test_what_is_not_there_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "show", str(run), "--iteration", "9"]) == 2
    assert "has no iteration 9: it has 0, 1, 2" in capsys.readouterr().err
    assert main(["rollouts", "show", str(run.parent)]) == 2
    assert "has none: name the folder of an online run" in capsys.readouterr().err


def test_a_row_that_lacks_a_part_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = rollout(0, "p", "r", 1.0)
    del row["finished"]
    write_iteration(tmp_path, 0, [row])
    assert main(["rollouts", "show", str(tmp_path)]) == 2
    assert "iter_000000.jsonl.gz: not a file of rollouts: KeyError" in capsys.readouterr().err
