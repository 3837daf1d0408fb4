"""`rto runs`: every folder is one line, whatever is in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rto.cli.main import main
from rto.tracking.run_folder import RunFolder
from run_folders import write_run


def about(path: Path, **changes: Any) -> None:
    content = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**content, **changes}))


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["runs", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def one(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (found,) = listed(folder, capsys)
    return found


def test_a_finished_run_with_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "a", iterations=3)
    os.utime(run / "config.yaml", (1000, 1000))
    assert one(tmp_path, capsys) == {
        "path": str(run),
        "state": "finished",
        "command": "train",
        "method": "rto",
        "started": 1000,
        "steps": 3,
        "metrics": {"policy/loss": 0.8, "reward/mean": 1.0},
        "error": "",
    }
    assert one(run, capsys)["path"] == str(run)
    about(run, began="1970-01-01T01:00:05+01:00")
    assert one(run, capsys)["started"] == 5


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_how_a_run_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str) -> None:
    about(write_run(tmp_path / "a"), status=status, reason="actor policy[0] died")
    found = one(tmp_path, capsys)
    assert (found["state"], found["error"]) == (status, "actor policy[0] died")


def test_a_run_is_lost_where_no_process_owns_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunFolder(tmp_path / "a") as folder:
        folder.write_about({"command": "sft", "method": "sft", "status": "running"})
        assert one(tmp_path, capsys)["state"] == "running"
    assert one(tmp_path, capsys)["state"] == "lost"
    (tmp_path / "a" / "run.json").unlink()
    (tmp_path / "a" / "metrics.jsonl").touch()
    assert one(tmp_path, capsys)["state"] == "unknown"


def test_the_list_begins_with_what_needs_a_look_and_the_newest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, status, started in (
        ("a", "finished", 5), ("b", "failed", 1), ("deep/c", "finished", 9), ("d", "lost?", 2),
    ):  # fmt: skip
        run = write_run(tmp_path / name)
        about(run, status=status)
        os.utime(run / "config.yaml", (started, started))
    found = [(Path(x["path"]).name, x["state"]) for x in listed(tmp_path, capsys)]
    assert found == [("b", "failed"), ("d", "damaged"), ("c", "finished"), ("a", "finished")]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"sft/loss": 2.0}, {"sft/loss": 1.0, "eval/nll_per_token": 0.5}, {"sft/loss": 3.0}],
         {"sft/loss": 3.0, "eval/nll_per_token": 0.5}),
        ([{"critic/loss": 9.0, "ptx/loss": 8.0, "policy/loss": 1.0, "reward/mean": 4.0}],
         {"policy/loss": 1.0, "reward/mean": 4.0}),
        ([{"x/y": 1.0}], {"eval/accuracy": 0.75}),
    ],
)  # fmt: skip
def test_the_last_value_of_loss_and_outcome(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, float]],
    expected: dict[str, float],
) -> None:
    """An outcome may be an earlier row's, or stand in the results alone. A cut last line is left
    out."""
    run = write_run(tmp_path / "a")
    lines = [json.dumps({"iteration": i, "time": 1.0, **row}) for i, row in enumerate(rows)]
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"iteration": 99, "sft/lo']))
    found = one(tmp_path, capsys)
    assert (found["metrics"], found["steps"]) == (expected, len(rows))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", b"[1]", "run.json: list instead of an object"),
        ("run.json", b"\xff\xfe", "run.json: not JSON"),
        ("run.json", b"[" * 50_000, "run.json: not JSON"),
        ("run.json", b'{"status": ["finished"]}', "run.json: status is"),
        ("run.json", b" " * 1_000_001, "run.json: 1000001 bytes"),
        ("metrics.jsonl", b"nonsense\n", "metrics.jsonl: not JSON"),
        ("metrics.jsonl", b'{"iteration": "3"}\n', "'iteration' is '3', not a number"),
        ("metrics.jsonl", b'{"loss": 1' + b"0" * 400 + b"}\n", "'loss' is 1000"),
        ("metrics.jsonl", b'{"iteration": true}\n', "'iteration' is True, not a number"),
        ("metrics.jsonl", b'{"iteration": NaN}\n', "'iteration' is nan, not a number"),
        ("metrics.jsonl", b'{"iteration": 0, "eval/x": \n{"iteration": 1}\n', "not JSON"),
    ],
)
def test_a_damaged_folder_is_a_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    said: str,
) -> None:
    run = write_run(tmp_path / "a")
    (run / name).write_bytes(content)
    found = one(tmp_path, capsys)
    assert found["state"] == "damaged"
    assert said in found["error"]


def test_the_table_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about(write_run(tmp_path / "a"), status="failed", reason="\x1b[2J[red]gone")
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for text in (
        "failed", "rto", "0.8000", "reward/mean 1.000", "\\x1b[2J[red]gone",
    ):  # fmt: skip
        assert text in said


def test_no_run_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no run folders in {tmp_path}\n"
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"rto: runs: {tmp_path}/none: no such folder")


def test_fifty_folders_are_listed_within_a_second_without_torch(tmp_path: Path) -> None:
    """Its own seconds, after Python has started: what is imported counts."""
    first = write_run(tmp_path / "run0", iterations=2)
    row = (first / "metrics.jsonl").read_text().splitlines()[-1]
    (first / "metrics.jsonl").write_text(f"{row}\n" * 5000)
    for i in range(1, 50):
        shutil.copytree(first, tmp_path / f"run{i}")
    code = (
        "import sys, time; began = time.process_time()\n"
        "from rto.cli.main import main; main(['runs', sys.argv[1]])\n"
        "print(time.process_time() - began, 'torch' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.count("finished") == 50
    seconds, torch = done.stderr.split()
    assert float(seconds) < 1
    assert torch == "False"


def test_no_secret_and_no_number_of_any_length_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a")
    about(tmp_path / "a", status="failed", reason="api_key=hunter2")
    assert one(tmp_path / "a", capsys)["error"] == "api_key=***"
    (tmp_path / "a" / "metrics.jsonl").write_text('{"iteration": 1e300}\n')
    assert one(tmp_path / "a", capsys)["state"] == "damaged"
