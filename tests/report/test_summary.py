"""A run folder in one line: its state, the last of its figures, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rto.report.summary import STATES, Summary, by_state, find_runs, summarise
from rto.tracking.run_folder import RunFolder
from run_folders import write_run


def about(path: Path, **changes: Any) -> None:
    file = path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def with_metrics(folder: Path, *rows: dict[str, Any] | str) -> Path:
    folder.mkdir()
    lines = [row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def test_run_folders_are_found_below_and_not_within_each_other(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "a/d/inner", "one/two/three/four"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)]
    assert found == ["a/b/c", "a/d"], "no deeper than three, and through no link"
    assert list(find_runs(tmp_path / "a" / "d")) == [tmp_path / "a" / "d"]


def test_a_run_says_what_it_is_and_how_far_it_came(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", iterations=3)
    about(run, began="1970-01-01T00:00:09+00:00", reason="")
    found = summarise(run)
    assert (found.state, found.method, found.command) == ("finished", "rto", "train")
    assert (found.steps, found.started) == (3, 9.0)
    assert found.outcome == ("reward/mean", 1.0)


@pytest.mark.parametrize(
    ("status", "held", "state"),
    [
        ("running", True, "running"),
        ("running", False, "lost"),
        ("finished", False, "finished"),
        ("", True, "running"),
        ("", False, "unknown"),
        ("done", False, "damaged"),
    ],
)
def test_a_run_is_going_on_where_a_process_holds_its_folder(
    status: str, held: bool, state: str, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_about({"status": status} if status else {})
    if held:
        with folder:
            assert summarise(folder.path).state == state
    else:
        folder.close()
        assert summarise(folder.path).state == state


def test_the_loss_of_the_policy_stands_before_a_critics(tmp_path: Path) -> None:
    losses = {"critic/loss": 1.0, "ptx/loss": 2.0, "policy/loss": 3.0}
    run = with_metrics(tmp_path / "a", {"iteration": 0, **losses})
    assert summarise(run).loss == ("policy/loss", 3.0)
    alone = with_metrics(tmp_path / "b", {"iteration": 0, "critic/loss": 1.0})
    assert summarise(alone).loss == ("critic/loss", 1.0)


def test_the_newest_evaluation_counts_though_it_is_an_earlier_rows(tmp_path: Path) -> None:
    run = with_metrics(
        tmp_path / "a",
        {"iteration": 0, "eval/accuracy": 0.5},
        {"iteration": 1, "eval/accuracy": 0.75},
        {"iteration": 2, "sft/loss": 1.0},
        '{"iteration": 3, "sft/lo',
    )
    found = summarise(run)
    assert (found.steps, found.outcome, found.loss) == (
        3,
        ("eval/accuracy", 0.75),
        ("sft/loss", 1.0),
    )


def test_without_metrics_the_results_of_the_run_are_the_outcome(tmp_path: Path) -> None:
    run = with_metrics(tmp_path / "a")
    (run / "run.json").write_text('{"status": "finished", "results": {"eval/accuracy": 1}}')
    assert (summarise(run).steps, summarise(run).outcome) == (0, ("eval/accuracy", 1))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{", "run.json: not JSON"),
        ("run.json", "[]", "run.json: list instead of an object"),
        ("run.json", " " * 1_000_001, "run.json: 1000001 bytes"),
        ("metrics.jsonl", '{"iteration": 0, "a/b": "x"}\n', "'a/b' is 'x', not a number"),
        ("metrics.jsonl", '{"iteration": -1}\n', "iteration is -1: no run makes that"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl: not JSON"),
    ],
)
def test_what_no_run_writes_is_damage_and_no_failure(
    name: str, content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    found = summarise(tmp_path)
    assert found.state == "damaged"
    assert said in found.error


def test_those_that_need_a_look_come_first_and_of_them_the_newest() -> None:
    given = [Summary(Path(str(i)), state, started=i) for i in (1, 2) for state in STATES]
    found = by_state(given)
    assert [each.state for each in found] == [state for state in STATES for _ in range(2)]
    assert all(a.started == 2 and b.started == 1 for a, b in zip(found[::2], found[1::2]))  # noqa: B905


@pytest.mark.parametrize("steps", [(), (1, 12)])
def test_of_a_lost_run_the_newest_checkpoint_is_named(
    steps: tuple[int, ...], tmp_path: Path
) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_about({"status": "running"})
        for step in steps:
            (folder.checkpoints / f"step_{step:08d}").mkdir()
        assert summarise(folder.path).error == ""
    said = "last checkpoint: step_00000012" if steps else "no checkpoint"
    assert summarise(folder.path).error.endswith(f"the machine went down; {said}")
