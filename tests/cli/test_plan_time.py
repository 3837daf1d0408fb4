"""What `rto plan` prints of time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from timed_runs import GPUS, flags, write_measured

from rto.cli.main import main


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")


def plan(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["plan", *flags(root, *GPUS, *more)]) == 0
    return capsys.readouterr().out


def cells(out: str, first: str) -> list[str]:
    """The row of a table that begins with this cell."""
    rows = [line[1:-1].split("│") for line in out.splitlines() if line.startswith("│")]
    return next(row for cells in rows if (row := [c.strip() for c in cells])[0] == first)


def test_stages_iteration_and_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = plan(tmp_path, capsys)
    assert "1,024 responses: prompts of 256 tokens, responses of 410, the longest 1,024" in out
    out = out.split("time of an iteration")[1]
    stages = [cells(out, name) for name in ("generate", "score", "update", "sync", "driver")]
    total = sum(float(row[1]) for row in stages)
    told = re.search(r"an iteration takes ([\d.]+) s", out)
    assert told is not None
    assert float(told[1]) == pytest.approx(total, abs=0.3)
    assert "by a model, nothing was measured; its bound is generate: " in out
    assert stages[2][3].startswith("products ")
    assert "nodes" not in out.split("an iteration takes")[1]


def test_what_is_not_counted_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = tmp_path / "score.py"
    score.write_text(
        "def reward_func(queries, prompts, labels):\n    return [0.0] * len(queries)\n"
    )
    assert "not counted" not in plan(tmp_path, capsys)
    assert "(reward functions and servers not counted)" in plan(
        tmp_path, capsys, "--reward.func_path", str(score)
    )


def test_how_it_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = plan(tmp_path, capsys, "--plan.nodes", "1..32")
    strong, weak = out.split("the same iteration on more nodes")[1].split("prompts and batch grow")
    assert [cells(strong, str(n))[1] for n in (1, 2, 16)] == ["8", "16", "128"]
    assert cells(strong, "1")[-2] == "100%"
    assert "32 nodes: train.batch_size 128 does not divide over 256 ranks" in strong
    assert cells(weak, "32")[1] == "256"
    assert "generate: " in cells(strong, "8")[-1]
    assert "below 50% at " in strong


def test_the_pace_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_measured(tmp_path, update=1.5)
    out = plan(tmp_path, capsys, "--plan.from_run", str(run))
    assert cells(out.split("pace of")[1], "update")[-1] == "1.500"
    assert "at the pace of that run" in out
    assert "prompts of 200 tokens, responses of 300" in out


def test_no_time_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *flags(tmp_path, "--plan.gpus", "8xV100-80")]) == 0
    assert "time: the cost model knows these cards" in capsys.readouterr().out
