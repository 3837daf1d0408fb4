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


def test_the_first_iteration_is_one_that_can_be_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollouts", "show", str(run), "--iteration", "0"]) == 0
    said = capsys.readouterr().out
    assert said.count("response:") == 2
    assert "Häuser" not in said


def test_ten_rows_unless_a_number_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_iteration(tmp_path, 0, [rollout(number, "p", "r", 1.0) for number in range(12)])
    assert main(["rollouts", "show", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("response:") == 10
    assert main(["rollouts", "show", str(tmp_path), "--rows", "11", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt_id"] for row in rows] == list(range(11))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], "RUN"),
        ([], "COMMAND"),
        (["show", ""], "names nothing"),
        (["show", "x", "--iteration", "-1"], "a whole number from 0"),
        (["show", "x", "--rows", "0"], "a whole number from 1"),
        (["show", "x", "--row", "1"], "unknown argument --row"),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollouts", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_home_folder_is_found(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    assert main(["rollouts", "show", f"~/{run.name}", "--rows", "1"]) == 0
    assert "response:" in capsys.readouterr().out


def test_a_score_of_nought_is_shown_and_one_that_is_missing_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"reward": 0, "text": None, "critic": {"tokens": [1.0]}, "dpo": {"sum": 0.0}}
    write_iteration(tmp_path, 0, [{**rollout(3, "p", "r", 1.0), "scores": scores}])
    assert main(["rollouts", "show", str(tmp_path)]) == 0
    assert (
        capsys.readouterr().out.splitlines()[0]
        == "prompt 3.0 | 2 tokens | reward 0.0000 | dpo 0.0000"
    )


def test_a_secret_in_a_prompt_or_a_response_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = "see https://me:pass1234word@host/x"
    write_iteration(tmp_path, 0, [rollout(0, written, written, 1.0)])
    assert main(["rollouts", "show", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "pass1234word" not in said
    assert said.count("host/x") == 2
