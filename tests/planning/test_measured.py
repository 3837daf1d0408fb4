"""A run's metrics beside the model: medians, lengths, and runs that say nothing about the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from planned_jobs import rto_job

from rto.errors import UserError
from rto.planning.cost import iteration
from rto.planning.measured import compare, seen_in, with_measured
from rto.planning.rates import Rates
from rto.report.collect import RunRecord, read_run
from run_folders import metrics_row, write_run

RATES = Rates()


def row(number: int, factor: float = 1.0, **changes: float) -> dict[str, float]:
    """An iteration as the model has it for 1,024 responses of 300 tokens to prompts of 200, of
    which the update takes ``factor`` times as long."""
    modelled = iteration(rto_job(prompt_tokens=200, response_tokens=300), RATES)
    seconds = {name: modelled[name].seconds for name in ("generate", "score", "update", "sync")}
    seconds["update"] *= factor
    total = sum(seconds.values()) + 2
    return metrics_row(
        number,
        **{f"time/{name}": value for name, value in seconds.items()},
        **{
            "response/num": 1024,
            "response/length": 300,
            "rate/score_tokens_per_s": 1024 * 500 / seconds["score"],
            "time/iteration": total,
            "time/other_share": 2 / total,
        },
        **changes,
    )


def run(path: Path, *rows: dict[str, float]) -> RunRecord:
    folder = write_run(path / "run")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return read_run(folder, "run")


def test_medians_without_the_first_iteration(tmp_path: Path) -> None:
    factors = [90.0, 1.0, 1.5, 1.2]
    seen = seen_in(run(tmp_path, *(row(i, factor) for i, factor in enumerate(factors))))
    update = row(0)["time/update"]
    assert seen.seconds["update"] == pytest.approx(1.2 * update)
    assert seen.seconds["driver"] == pytest.approx(2, rel=0.1)
    assert seen.response_tokens == 300
    assert seen.prompt_tokens == pytest.approx(200)


def test_one_iteration_is_all_there_is(tmp_path: Path) -> None:
    seen = seen_in(run(tmp_path, row(0, 1.25)))
    assert seen.seconds["update"] == pytest.approx(1.25 * row(0)["time/update"])


def test_the_pace_of_a_run_becomes_the_plan_s(tmp_path: Path) -> None:
    compared = compare(seen_in(run(tmp_path, row(0, 1.25))), rto_job(), RATES)
    factors = {each.stage: each.factor for each in compared}
    assert factors["update"] == pytest.approx(1.25)
    assert [factors[name] for name in ("generate", "score", "sync")] == pytest.approx([1, 1, 1])
    plain, paced = (
        iteration(rto_job(), rates) for rates in (RATES, with_measured(RATES, compared))
    )
    assert paced["update"].seconds == pytest.approx(1.25 * plain["update"].seconds)
    assert paced["generate"].seconds == pytest.approx(plain["generate"].seconds)


def test_a_run_on_another_card_is_refused(tmp_path: Path) -> None:
    seen = seen_in(run(tmp_path, row(0, 40.0)))
    with pytest.raises(UserError, match="update took .* the model gives .* card of plan.gpus"):
        compare(seen, rto_job(), RATES)


def test_a_run_without_an_iteration_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no time/generate: name a run that has done"):
        seen_in(run(tmp_path))


def test_a_run_that_samples_nothing_is_no_measure(tmp_path: Path) -> None:
    record = run(tmp_path, row(0))
    offline = replace(record, about={"command": "dpo"})
    with pytest.raises(UserError, match=r"a run of `rto dpo`: name one of `rto train`"):
        seen_in(offline)


def test_figures_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    odd = row(0) | {"rate/score_tokens_per_s": 1.0}
    with pytest.raises(UserError, match="do not go together"):
        seen_in(run(tmp_path, odd))
