"""What became of rows and responses, and what a report warns of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rto.report.collect import RunRecord, read_run
from rto.report.findings import Account, accounts, warnings
from run_folders import metrics_row, write_run


def with_metrics(*rows: dict[str, float], config: dict[str, str] | None = None) -> RunRecord:
    return RunRecord("run", Path("run"), metrics=rows, config=config or {})


def test_accounts_add_up_and_say_why(tmp_path: Path) -> None:
    data, responses = accounts(read_run(write_run(tmp_path / "a"), "a"))
    assert data == Account("prompts", 10, 7, {"too long": 3})
    assert responses == Account("responses", 6, 6)
    assert (data.unexplained, responses.unexplained) == (0, 0)


def test_responses_that_vanish_are_a_warning() -> None:
    run = with_metrics(metrics_row(0), metrics_row(1, **{"response/trained": 1}))
    assert accounts(run) == [Account("responses", 4, 3)]
    assert warnings(run) == ["1 responses are unaccounted for"]


def test_responses_that_only_the_critic_saw_are_filtered_for_that_reason() -> None:
    warm_up = metrics_row(0, **{"response/trained": 0})
    del warm_up["policy/loss"]
    (account,) = accounts(with_metrics(warm_up, metrics_row(1)))
    assert (account.drawn, account.trained, list(account.filtered.values())) == (4, 2, [2])
    assert account.unexplained == 0


def test_what_was_not_recorded_is_not_guessed() -> None:
    old = metrics_row(0)
    del old["response/trained"]
    (account,) = accounts(with_metrics(old))
    assert (account.drawn, account.trained, account.unexplained) == (2, None, None)


def test_how_a_run_failed_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    about = {"method": "rto", "status": "failed", "reason": "loss is nan"}
    (folder / "run.json").write_text(json.dumps(about))
    said = "the run has not finished: 3 iterations are there (failed: loss is nan)"
    assert warnings(read_run(folder, "a")) == [said]


def restart(**changes: object) -> dict[str, object]:
    return {"at": "2026-11-28T10:00:00+00:00", "lost": "actor x died", "checkpoint": ""} | changes


def test_restarts_are_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    about = {"status": "finished", "restarts": [restart(), restart(lost="actor y\x1b died")]}
    (folder / "run.json").write_text(json.dumps(about))
    said = "actors died and the run went on, 2 times; last at 2026-11-28T10:00:00+00:00: actor y"
    assert warnings(read_run(folder, "a")) == [f"{said}\\x1b died"]


@pytest.mark.parametrize("restarts", [[], 3, [7], [{"at": "x"}], [restart(more=1)]])
def test_restarts_that_no_run_writes_are_not(restarts: object, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "run.json").write_text(json.dumps({"status": "finished", "restarts": restarts}))
    said = [] if restarts == [] else ["run.json: restarts is not what a run writes: left out"]
    assert warnings(read_run(folder, "a")) == said


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"sampler/abs_diff_mean": 2e-3}, "engine and trainer differ by 0.002"),
        ({"response/truncated_share": 0.11}, "11% of the last responses are cut"),
        ({"critic/explained_variance": -0.5}, "explained variance -0.50"),
        ({"policy/clip_share": 0.31}, "31% of the ratios are clipped"),
    ],
)
def test_figures_beyond_their_limit_are_warned_of(extra: dict[str, float], said: str) -> None:
    config = {"ds.param_dtype": "fp32"}
    (warning,) = warnings(with_metrics(metrics_row(0, **extra), config=config))
    assert said in warning
    less = {key: value - 0.02 if value > 0 else 0.1 for key, value in extra.items()}
    assert warnings(with_metrics(metrics_row(0, **less), config=config)) == []


def test_the_gap_that_passes_is_the_weight_syncs() -> None:
    row = metrics_row(0, **{"sampler/abs_diff_mean": 0.05})
    assert warnings(with_metrics(row, config={"ds.param_dtype": "bf16"})) == []
    given = {"ds.param_dtype": "bf16", "vllm.logprob_tolerance": "0.01"}
    assert "limit 0.01" in warnings(with_metrics(row, config=given))[0]


def test_an_unfinished_run_and_what_libraries_logged(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "run.json").write_text(json.dumps({"method": "rto", "status": "running"}))
    (folder / "logs").mkdir()
    (folder / "logs" / "ray.log").write_text(
        "2026-11-21 15:54:35,833 WARNING 7 ray.x: low disk\n  more\n"
        "2026-11-21 15:54:36,000 INFO 7 ray.x: fine\n"
        "2026-11-21 15:54:37,000 ERROR 7 ray.x: gone\n"
    )
    assert warnings(read_run(folder, "a")) == [
        "the run has not finished: 3 iterations are there",
        "logs/ray.log warns 2 times, first: low disk",
    ]
