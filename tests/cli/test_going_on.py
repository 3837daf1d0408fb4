"""`--ckpt.load_enable` without a checkpoint: a run that starts over says so, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rto.data.accounting import RowCounts
from rto.errors import UserError
from rto.registry import card
from rto.runs.execute import execute
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig


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


def committed(run: Path) -> Path:
    step = run / "checkpoints" / "step_00000004"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    return step


def test_a_run_goes_on_with_the_checkpoint_that_its_mirror_has(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    committed(tmp_path / "copy")
    url = f"file://{tmp_path}/copy"
    with pytest.raises(UserError, match="already holds files"):
        start(tmp_path / "run", tiny_model_dir, "--ckpt.mirror", url)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="as far as this test goes"):
        start(tmp_path / "run", tiny_model_dir, "--ckpt.load_enable", "--ckpt.mirror", url)
    said = capsys.readouterr().out
    assert f"step_00000004 fetched from {url}" in said
    assert "no checkpoint in" not in said


def test_what_a_run_leaves_is_at_its_mirror(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record says there, too, that it has ended."""

    def prepare(command: str, config: RunConfig) -> tuple[Any, Any]:
        run = SimpleNamespace(
            config=config,
            method=SimpleNamespace(card=card("sft")),
            row_counts=RowCounts("rows", 1, 1),
            plan=SimpleNamespace(device="cpu"),
        )
        return run, lambda folder, found: {"steps": float(bool(committed(folder.path)))}

    monkeypatch.setattr("rto.runs.execute.prepared", prepare)
    monkeypatch.setattr("rto.runs.execute.add_report", lambda folder: None)
    flags = ["--ckpt.mirror", f"file://{tmp_path}/copy", "--ds.param_dtype", "fp32"]
    start(tmp_path / "run", tiny_model_dir, *flags)
    assert (tmp_path / "copy" / "checkpoints" / "step_00000004" / "manifest.json").is_file()
    about = json.loads((tmp_path / "copy" / "run.json").read_text())
    assert about == json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["status"] == "finished"
