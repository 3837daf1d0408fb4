"""Run folders of each training command: stage, method and unit are named as what they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from rto.data.accounting import RowCounts
from rto.methods.reward_model import RewardModel
from rto.protocols import Method
from rto.registry import build
from rto.report import curves
from rto.report.collect import read_run, read_runs
from rto.report.findings import warnings
from rto.report.page import render
from rto.runs import execute as cli
from rto.sections.parse import dump, parse_run


class Case(NamedTuple):
    command: str
    flags: list[str]
    metrics: list[str]
    stage: str
    method: str
    kind: str


CASES = [
    Case(
        "sft",
        [],
        ["sft/loss", "eval/nll_per_token"],
        "supervised fine-tuning",
        "Supervised fine-tuning (maximum likelihood)",
        "sft",
    ),
    Case(
        "reward",
        [],
        ["reward_model/loss", "reward_model/accuracy"],
        "reward model",
        "Bradley-Terry reward model (Bradley and Terry 1952)",
        "reward",
    ),
    Case(
        "dpo",
        [],
        ["preference/loss", "preference/accuracy"],
        "offline training on preference pairs",
        "Direct Preference Optimization (arXiv 2305.18290)",
        "dpo",
    ),
    Case(
        "dpo",
        ["--loss", "simpo"],
        ["preference/loss"],
        "offline training on preference pairs",
        "Simple Preference Optimization (arXiv 2405.14734)",
        "simpo",
    ),
    Case(
        "fit",
        ["--algo", "ipo"],
        ["preference/loss"],
        "offline training on preference pairs",
        "Identity Preference Optimization",
        "ipo",
    ),
    Case(
        "fit",
        ["--algo", "rpo"],
        ["rpo/loss", "reward/correlation"],
        "offline training on rated responses",
        "Reward Partitioning",
        "rpo",
    ),
    Case(
        "train",
        ["--algo", "ppo"],
        ["response/num", "policy/loss", "sft/loss"],
        "online training on sampled responses",
        "Proximal Policy Optimization",
        "ppo",
    ),
]


class Tokens:
    eos_token_id = 0

    def __len__(self) -> int:
        return 1

    def decode(self, token_id: int) -> str:
        return "."


def write(folder: Path, case: Case) -> Path:
    """A folder with what `execute` writes, and two rows of metrics."""
    config = parse_run(case.command, case.flags).config
    method: Method = RewardModel()
    if case.command != "reward":
        mode = "online" if case.command == "train" else "offline"
        method = build(config, cast(Any, Tokens()), mode=mode)
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(config, case.command))
    about = {**cli._about(case.command, method.card, RowCounts()), "status": "running"}
    (folder / "run.json").write_text(json.dumps(about))
    rows = [
        {
            "iteration": i,
            "time": 100.0 + i,
            "time/iteration": 1.0,
            **dict.fromkeys(case.metrics, 0.5),
        }
        for i in range(2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def overview(page: str) -> dict[str, str]:
    part = page[
        page.index('id="overview"') : page.index(
            "Versions" if "Versions" in page else "Curves</h2>"
        )
    ]
    return dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', part))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command}-{case.kind}")
def test_a_run_is_named_as_what_it_is(tmp_path: Path, case: Case) -> None:
    folder = write(tmp_path / "run", case)
    page = render(read_runs([folder]))
    shown = overview(page)
    assert shown["stage"] == case.stage
    assert shown["method"].startswith(case.method)
    assert shown["command"] == f"rto {case.command}"
    online = case.command == "train"
    assert shown["length"] == ("2 iterations" if online else "2 steps")
    axis = "iteration (online)" if online else "optimizer step (offline)"
    assert page.count(axis) == 2
    assert ("optimizer step (offline)" in page) == (not online)
    said = warnings(read_run(folder, "run"))
    assert f"the run has not finished: {shown['length']} are there" in said
    (folder / "run.json").unlink()
    alone = read_run(folder, "run")
    assert (alone.kind, alone.stage, alone.unit) == (case.kind, case.stage, shown["length"][2:])


def test_a_run_that_has_logged_nothing_yet_is_named_by_its_command(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", CASES[-1])
    (folder / "metrics.jsonl").write_text("")
    run = read_run(folder, "run")
    assert (run.stage, run.unit) == (CASES[-1].stage, "iterations")


def test_first_and_last_figures_are_those_of_the_stage(tmp_path: Path) -> None:
    shown = [overview(render(read_runs([write(tmp_path / c.kind, c)]))) for c in CASES[:3]]
    assert "sft/loss, first → last" in shown[0]
    assert "reward_model/accuracy, first → last" in shown[1]
    assert "preference/accuracy, first → last" in shown[2]


def test_held_out_figures_are_progress_and_their_seconds_a_stage(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", CASES[0]), "run")
    progress = curves.sections([run], points=10)[0]
    assert (progress.title, [c.key for c in progress.charts]) == (
        "Progress",
        ["eval/nll_per_token"],
    )
    assert curves.stage_seconds({"time/iteration": 4.0, "time/evaluate": 3.0})["evaluate"] == 3.0


def test_a_report_is_written_over_a_report_alone(tmp_path: Path) -> None:
    from rto.cli.report import checked
    from rto.errors import UserError

    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(UserError, match="is no HTML page"):
        checked(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="is no HTML page"):
        checked(Path("/dev/null"))
    (tmp_path / "r.html").write_text("<!doctype html>\n")
    assert checked(tmp_path / "r.html")


def test_secrets_in_lists_and_under_names_are_not_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: {passwd: [hunter2], token: hunter2}\n")
    (tmp_path / "versions.json").write_text('{"a": {"token": "hunter2"}}')
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "api_key=hunter2/b": 5e-324}\n')
    (tmp_path / "metrics.jsonl").open("a").write('{"iteration": 1, "api_key=hunter2/b": 0}\n')
    assert "hunter2" not in render(read_runs([tmp_path]))
