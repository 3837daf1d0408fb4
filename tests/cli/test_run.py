"""The training commands: a run and its results, or a plan alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rto.cli import run
from rto.runs.execute import Finished
from rto.sections.run_config import RunConfig

Ran = list[tuple[str, RunConfig]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ran:
    """What was started; a run ends at once, with one figure unless it is of SFT."""
    found: Ran = []

    def execute(command: str, config: RunConfig) -> Any:
        found.append((command, config))
        metrics = {} if command == "sft" else {"eval/accuracy": 0.75}
        return Finished(**{**dict.fromkeys(Finished.__annotations__), "folder": tmp_path,
                           "metrics": metrics})  # fmt: skip

    monkeypatch.setattr(run, "execute", execute)
    return found


COMMANDS: list[tuple[Callable[[Sequence[str]], int], str]] = [
    (run.sft, "sft"), (run.reward, "reward"), (run.dpo, "dpo"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "name"), COMMANDS)
def test_each_command_starts_its_run_and_says_where_the_model_is(
    command: Callable[[Sequence[str]], int],
    name: str,
    ran: Ran,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--actor.model_name_or_path", "m", "--data.dataset", "d", "--train.seed", "7"]
    assert command(flags) == 0
    ((started, config),) = ran
    assert (started, config.train.seed) == (name, 7)
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"model: {tmp_path / 'last'}"
    assert ("eval/accuracy" in said) is (name != "sft")


def test_a_dry_run_prints_the_plan_and_starts_nothing(
    ran: Ran,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"input": "w1 w2 w3"}\n' * 8)
    flags = ["--actor.model_name_or_path", str(tiny_model_dir), "--data.dataset", "rows.jsonl"]
    flags += ["--train.batch_size", "4", "--data.max_len", "16", "--train.device", "cpu"]
    assert run.sft([*flags, "--dry_run", "--data.cache_dir", str(tmp_path / "cache")]) == 0
    assert ran == []
    assert "policy" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("named", [True, False])
def test_a_supervised_run_is_the_same_command_in_one_folder(
    named: bool, ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[tuple[list[str], Path]] = []

    def supervise(line: list[str], folder: Path) -> int:
        lines.append((line, folder))
        return 75

    monkeypatch.setattr(run, "supervise", supervise)
    monkeypatch.setattr(run, "program", lambda: ["rto"])
    monkeypatch.chdir(tmp_path)
    flags = ["--actor.model_name_or_path", "m", "--data.dataset", "d"]
    flags += ["--ckpt.output_dir", "run"] if named else []
    assert run.sft([*flags[:2], "--supervise", *flags[2:]]) == 75
    ((line, folder),) = lines
    assert ran == []
    if named:
        assert folder == tmp_path / "run"
        assert line == ["rto", "sft", *flags]
    else:
        assert folder.parent == tmp_path / "runs"
        assert line == ["rto", "sft", *flags, "--ckpt.output_dir", str(folder)]
