from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import driver, run
from benchmarks.common import TARGETS, Figure, Options, interleaved


def test_the_targets_are_those_that_the_project_promises() -> None:
    assert {name: (t.better, t.value) for name, t in TARGETS.items()} == {
        "rollout_tokens_ratio": ("higher", 0.95),
        "update_tokens_ratio": ("higher", 0.85),
        "other_share": ("lower", 0.03),
        "logprob_memory_ratio": ("lower", 0.35),
        "first_step_seconds": ("lower", 60),
        "rto_help_seconds": ("lower", 1.5),
        "driver_seconds": ("lower", 0.5),
        "async_iteration_over_least": ("lower", 1.1),
        "grpo_like_samples_ratio": ("higher", 2),
        "dpo_step_ratio": ("higher", 2),
        "dpo_memory_ratio": ("lower", 1),
        "kto_step_ratio": ("higher", 2),
        "kto_memory_ratio": ("lower", 1),
        "rpo_t5_rows_ratio": ("higher", 10),
    }
    for target in TARGETS.values():
        assert importlib.util.find_spec(f"benchmarks.{target.module}") is not None


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("rollout_tokens_ratio", 0.95, 0.949), ("other_share", 0.03, 0.031)],
)
def test_a_target_is_met_on_its_better_side(name: str, good: float, bad: float) -> None:
    assert TARGETS[name].met(good)
    assert not TARGETS[name].met(bad)
    for value, met in ((good, "yes"), (bad, "MISSED")):
        assert run.row(name, {name: Figure(name, value, "")})["met"] == met


def test_a_figure_that_failed_has_a_row_without_a_value() -> None:
    assert run.row("other_share", {}) == {
        "figure": "other_share",
        "target": "<= 0.03",
        "value": "-",
        "met": "failed",
        "from": "",
    }


def test_new_entries_replace_old_ones_of_their_name(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    run.write(path, {"other_share": Figure("other_share", 0.5, "first")})
    second = {
        "other_share": Figure("other_share", 0.01, "second"),
        "rto_help_seconds": Figure("rto_help_seconds", 0.2, ""),
    }
    run.write(path, second)
    entries = json.loads(path.read_text(encoding="utf-8"))
    seen = [(e["name"], e["value"], e["target"], e["better"], e["detail"]) for e in entries]
    assert seen == [
        ("other_share", 0.01, 0.03, "lower", "second"),
        ("rto_help_seconds", 0.2, 1.5, "lower", ""),
    ]
    for entry in entries:
        assert "GiB" in entry["machine"]
        assert {"python", "torch", "ray", "trl"} <= entry["versions"].keys()


def test_rivals_take_turns_and_the_ratio_is_the_median_of_neighbours() -> None:
    calls: list[str] = []
    rates = {"ours": iter([9.0, 2.0, 6.0, 4.0]), "theirs": iter([9.0, 1.0, 6.0, 1.0])}

    def side(name: str) -> float:
        calls.append(name)
        return next(rates[name])

    ratio, ours, theirs = interleaved(lambda: side("ours"), lambda: side("theirs"), rounds=3)
    assert calls == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (ratio, ours, theirs) == (2.0, 4.0, 1.0)


def test_an_unknown_figure_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run.main(["nope"])
    assert error.value.code == 2
    assert "unknown figure 'nope'" in capsys.readouterr().err


def test_a_module_stands_for_its_figures() -> None:
    assert run.parse(["driver", "other_share"]).names == ["driver_seconds", "other_share"]
    assert run.parse(["quickstart"]).names == ["other_share", "first_step_seconds"]


def test_the_driver_is_timed_by_part_and_the_file_beside_the_loop() -> None:
    seen = driver.iteration(*driver.SIZES["tiny"])
    assert {*driver.PARTS, "file", "peak GiB", "given GiB", "file MiB"} == seen.keys()
    assert driver.total(seen) == sum(seen[name] for name in driver.PARTS)
    assert seen["file"] >= seen["write"] > 0
    assert seen["peak GiB"] >= seen["given GiB"] > 0


def test_the_drivers_responses_are_as_long_as_their_size_says() -> None:
    rollouts = driver.draw(8, 16)
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    assert lengths[0] == max(lengths) == 16
    assert min(lengths) >= 1
    assert [rollout.finished for rollout in rollouts] == [length < 16 for length in lengths]
    assert [(r.prompt.id, r.sample_index) for r in rollouts] == [(n // 4, n % 4) for n in range(8)]
    assert all(len(r.prompt.token_ids) == driver.PROMPT_TOKENS for r in rollouts)
    quarters = {name: driver.SIZES[f"{name}/4"] for name in ("small", "large")}
    for name, (responses, length) in quarters.items():
        assert driver.SIZES[name] == (4 * responses, length)


def test_a_part_that_comes_twice_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 1.0, 5.0, 7.0))
    monkeypatch.setattr(driver.time, "perf_counter", lambda: next(clock))
    watch = driver.Stopwatch()
    assert watch.timed("shard", lambda: "answer") == "answer"
    watch.timed("shard", lambda: None)
    assert watch.seconds == {"shard": 3.0}


def test_a_benchmark_runs_alone_and_leaves_its_entry(tmp_path: Path) -> None:
    out = tmp_path / "latest.json"
    assert run.main(["rto_help_seconds", "--quick", "--out", str(out)]) == 0
    (entry,) = json.loads(out.read_text(encoding="utf-8"))
    assert entry["name"] == "rto_help_seconds"
    assert entry["value"] > 0


def test_a_module_that_fails_gives_no_figures(tmp_path: Path) -> None:
    assert run.measure("no_such_module", Options(quick=True), log=tmp_path / "log") == []
    assert "no_such_module" in (tmp_path / "log").read_text(encoding="utf-8")
