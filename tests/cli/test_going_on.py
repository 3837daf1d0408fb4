"""`--ckpt.load_enable` without a checkpoint: a run that starts over says so, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rto.errors import UserError
from rto.runs.execute import execute
from rto.sections.parse import parse_run


def start(folder: Path, model: Path, *more: str) -> None:
    data = folder.parent / "rows.jsonl"
    data.write_text('{"input": "w0 w1"}\n')
    flags = ["--actor.model_name_or_path", str(model), "--data.dataset", str(data)]
    execute("sft", parse_run("sft", [*flags, "--ckpt.output_dir", str(folder), *more]).config)


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*args: Any) -> None:
        raise UserError("as far as this test goes")

    monkeypatch.setattr("rto.runs.execute.prepared", prepare)


@pytest.mark.parametrize(
    ("flags", "said"), [(["--ckpt.load_enable"], True), ([], False)], ids=["going on", "new"]
)
def test_a_run_that_starts_over_says_so(
    flags: list[str],
    said: bool,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match="as far as this test goes"):
        start(tmp_path / "run", tiny_model_dir, *flags)
    assert ("no checkpoint in" in capsys.readouterr().out) == said


def test_metrics_without_a_checkpoint_are_kept(tiny_model_dir: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.parent.mkdir()
    metrics.write_text('{"iteration": 0}\n')
    with pytest.raises(UserError, match="metrics of a run and no checkpoint"):
        start(tmp_path / "run", tiny_model_dir, "--ckpt.load_enable")
    assert metrics.read_text() == '{"iteration": 0}\n'
