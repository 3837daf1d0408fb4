"""Run folders as values: golden numbers, missing parts, files that are not what a run writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rto.errors import UserError
from rto.report.collect import RunRecord, find_runs, read_run, read_runs
from rto.report.findings import warnings
from run_folders import metrics_row, write_run


def with_metrics(*rows: dict[str, float], config: dict[str, str] | None = None) -> RunRecord:
    return RunRecord("run", Path("run"), metrics=rows, config=config or {})


def test_a_whole_folder(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a"), "a")
    assert (run.kind, run.is_online, run.missing) == ("rto", True, ())
    assert run.config == {
        "algo.name": "rto",
        "algo.kl.init_coef": "0.01",
        "train.seed": "1",
        "ds.param_dtype": "fp32",
    }
    assert run.versions == {"torch": "2.13.0", "cpu_count": "2"}
    assert run.column("reward/mean") == ([1, 2, 3], [0.0, 0.5, 1.0])
    assert run.column("no/such") == ([], [])
    assert warnings(run) == []


@pytest.mark.parametrize(
    ("areas", "config", "kind"),
    [
        ("sft", {"algo.name": "ppo"}, "sft"),
        ("reward_model", {"algo.name": "ppo"}, "reward"),
        ("preference", {"algo.name": "ppo", "preference.loss": "ipo"}, "ipo"),
        ("policy", {"algo.name": "grpo"}, "grpo"),
    ],
)
def test_a_folder_without_run_json_tells_its_method(
    areas: str, config: dict[str, str], kind: str
) -> None:
    row = {"iteration": 0, "time": 1.0, f"{areas}/loss": 1.0}
    assert with_metrics(row, config=config).kind == kind


def test_missing_parts_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "versions.json").unlink()
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder, "a")
    assert [sentence.split(":")[0] for sentence in run.missing] == [
        "versions.json is missing",
        "metrics.jsonl is missing",
    ]
    assert run.metrics == []


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("data", {}),
        ("data", []),
        ("data", {"unit": "rows", "read": 1e300, "used": 1, "filtered": {}}),
        ("data", {"unit": "rows", "read": 3, "used": 1, "filtered": {"x": "y"}}),
        ("results", {"eval/a": "high"}),
        ("results", {"eval/a": 10**400}),
        ("results", 3),
        ("title", ["t"]),
        ("status", None),
    ],
)
def test_an_odd_part_of_run_json_is_left_out_and_told(
    tmp_path: Path, part: str, value: object
) -> None:
    folder = write_run(tmp_path / "a")
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, part: value}))
    run = read_run(folder, "a")
    assert part not in run.about
    assert f"run.json: {part} is not what a run writes: left out" in warnings(run)


def test_secrets_and_control_characters_do_not_reach_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "config.yaml").write_text('reward:\n  remote_url: ["http://h/r?api_key=hunter2"]\n')
    (folder / "versions.json").write_text(json.dumps({"a\x1b": "HF_TOKEN=hunter2 \ud800"}))
    (folder / "run.json").write_text(json.dumps({"title": "\x1b[31m", "reason": "token=hunter2"}))
    run = read_run(folder, "a")
    assert run.config == {"reward.remote_url": '["http://h/r?api_key=***"]'}
    assert run.versions == {"a\\x1b": "HF_TOKEN=*** \\ud800"}
    assert run.about == {"title": "\\x1b[31m", "reason": "token=***"}


@pytest.mark.parametrize(
    ("times", "clock"),
    [
        ([10.0, 14.0], (6.0, 14.0)),
        ([1e300, 1e300], None),
        ([-1.0, 5.0], None),
        ([10.0, 1.0], None),
        ([None, 14.0], None),
        ([10.0, None], None),
    ],
)
def test_times_that_cannot_be_are_not_shown(
    times: list[float | None], clock: tuple[float, float] | None
) -> None:
    """An iteration took 4 s, so the run began that long before its first line."""
    rows = [metrics_row(i) for i in range(2)]
    for row, time in zip(rows, times, strict=True):
        del row["time"]
        if time is not None:
            row["time"] = time
    assert with_metrics(*rows).clock == clock


def test_a_folder_of_runs_stands_for_them_and_each_counts_once(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name) for name in ("b", "a")]
    (tmp_path / "logs").mkdir()
    assert set(find_runs([tmp_path, folders[0]])) == set(folders)
    with pytest.raises(UserError, match="no such folder"):
        find_runs([tmp_path / "c"])
    with pytest.raises(UserError, match="is no run folder and holds none"):
        find_runs([tmp_path / "logs"])


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / parent / "rto") for parent in ("x", "y")]
    assert [run.name for run in read_runs(folders)] == ["x/rto", "y/rto"]
    assert [run.name for run in read_runs(folders[:1])] == ["rto"]
