"""Evaluations beside run folders: which are found, and their plot against KL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rto.report.collect import read_runs
from rto.report.evaluation import Figure, find_evaluations, plane, read_evaluation
from run_folders import write_run


def test_an_evaluation_of_another_program_is_no_evaluation(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "rto")
    odd = {"stages": {"a": [], "b": {"x": {"mean": "1", "ci95": 3}}}, "differences": [1]}
    (folder.parent / "summary.json").write_text(json.dumps(odd))
    (found,) = find_evaluations(read_runs([folder]))
    assert found.policies == {"a": {}, "b": {}}
    assert found.differences == {}


def test_the_evaluations_of_quickstart_and_compare_are_found(tmp_path: Path) -> None:
    gain = {"mean": 1.0, "ci95": [0.5, 1.5]}
    summary = {"seconds": 9.0, "stages": {"rto": {"gold_reward": gain, "kl": 2}}, "gap": gain}
    compared = {"methods": {"rto": {"gain": gain}}, "differences": {"a - b": gain}}
    folder = write_run(tmp_path / "runs" / "rto")
    (folder.parent / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "compare.json").write_text(json.dumps(compared))
    by_name = {each.path.name: each for each in find_evaluations(read_runs([folder]))}
    figure = Figure(1.0, (0.5, 1.5))
    assert by_name["summary.json"].policies == {"rto": {"gold_reward": figure, "kl": Figure(2.0)}}
    assert by_name["summary.json"].differences == {"gap": figure}
    assert by_name["compare.json"].differences == {"a - b": figure}
    assert find_evaluations(read_runs([write_run(tmp_path / "far" / "a" / "b" / "c")])) == []


def test_the_plot_of_an_evaluation_has_intervals_against_kl(tmp_path: Path) -> None:
    """Gains 1 [0, 2] and 3 [3, 4] at KL 5 and 10; a policy without KL has no place."""
    gains = {"dpo": (1.0, [0.0, 2.0]), "rto": (3.0, [3.0, 4.0]), "sft": (0.0, [0.0, 0.0])}
    methods = {
        name: {"start": 0.5, "gain": {"mean": mean, "ci95": ci}, "kl": 5.0 if name == "dpo" else 10}
        for name, (mean, ci) in gains.items()
    }
    del methods["sft"]["kl"]
    found = plane(read_evaluation(tmp_path, {"methods": methods}, "methods"))
    assert found is not None
    assert (found.judged_by, [mark.name for mark in found.marks]) == ("gain", ["dpo", "rto"])
    dpo, rto = found.marks
    zero = next(x for x, label in found.x_ticks if label == "0")
    assert dpo.x - zero == pytest.approx(rto.x - dpo.x, abs=0.2)
    unit = dpo.y - rto.low
    assert dpo.low - dpo.y == pytest.approx(unit / 2, abs=0.2)
    assert dpo.y - dpo.high == pytest.approx(unit / 2, abs=0.2)
    assert rto.low == rto.y > rto.high
    assert "gain\t1 [0, 2]" in dpo.tip
    moved = {"kl": {"mean": 1.0, "ci95": [0.5, 2.0]}}
    assert plane(read_evaluation(tmp_path, {"methods": {"a": moved}}, "methods")) is None
    del methods["dpo"]["kl"], methods["rto"]["kl"]
    assert plane(read_evaluation(tmp_path, {"methods": methods}, "methods")) is None
    assert plane(read_evaluation(tmp_path, {"methods": {"a": {"kl": 1.0}}}, "methods")) is None
