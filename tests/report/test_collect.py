"""Run folders as values: golden numbers, missing parts, files that are not what a run writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rto.errors import UserError
from rto.report import files
from rto.report.collect import RunRecord, find_runs, read_run, read_runs
from rto.report.evaluation import Figure, find_evaluations, plane, read_evaluation
from rto.report.files import flat
from rto.report.findings import Account, accounts, warnings
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


def test_a_cut_last_line_is_left_out_and_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "ti')
    run = read_run(folder, "a")
    assert len(run.metrics) == 3
    assert any("cut off" in sentence for sentence in warnings(run))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", "{}\n", "metrics.jsonl:1: iteration is None"),
        ("metrics.jsonl", '{"iteration": 0, "a/b": NaN}\n', "metrics.jsonl:1: a/b is nan"),
        ("metrics.jsonl", "x\n", "metrics.jsonl:1: not JSON"),
        ("metrics.jsonl", "[]\n", "metrics.jsonl:1: list instead of an object"),
        ("versions.json", "{", "versions.json: not JSON"),
        ("config.yaml", "a: [", "config.yaml:1: not YAML"),
        ("config.yaml", "a: &x {b: 1}\nc: *x\n", "config.yaml:2: not YAML: an alias"),
        ("metrics.jsonl", "\udcff\udcfe\0", "metrics.jsonl: cannot be read: Unicode"),
        (
            "metrics.jsonl",
            '{"iteration": 0, "a": ' + "[" * 99_999 + "\n",
            "metrics.jsonl:1: not JSON: R",
        ),
        ("metrics.jsonl", '{"iteration": "0"}\n', "metrics.jsonl:1: iteration is '0'"),
        ("metrics.jsonl", '{"iteration": true}\n', "metrics.jsonl:1: iteration is True"),
        ("metrics.jsonl", '{"iteration": 1' + "0" * 400 + "}\n", "iteration is 1000"),
        ("metrics.jsonl", '{"iteration": 0, "a/b": 1e301}\n', "metrics.jsonl:1: a/b is 1e+301"),
        ("metrics.jsonl", " " * 1_100_000 + "\n", "metrics.jsonl:1: longer than 1048576"),
        (
            "metrics.jsonl",
            json.dumps({"iteration": 0} | {f"a/{i}": 1 for i in range(301)}) + "\n",
            "metrics.jsonl:1: more than 300 metrics",
        ),
        ("run.json", "[]", "run.json: list instead of an object"),
        ("run.json", " " * 5_000_000, "run.json: longer than"),
        ("run.json", "{" + '"a":{' * 99_999, "run.json: not JSON: Recursion"),
        ("config.yaml", "- a", "config.yaml: not a mapping"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError) as caught:
        read_run(folder, "a")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


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


def test_of_a_long_file_every_nth_line_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 lines with room for 2 every third is read: iterations 0 and 3."""
    folder = write_run(tmp_path / "a", iterations=5)
    monkeypatch.setattr(files, "MAX_ROWS", 2)
    run = read_run(folder, "a")
    assert [row["iteration"] for row in run.metrics] == [0, 3]
    assert "of 3 lines one is read" in run.missing[0]


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


def test_how_a_run_failed_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    about = {"method": "rto", "status": "failed", "reason": "loss is nan"}
    (folder / "run.json").write_text(json.dumps(about))
    said = "the run has not finished: 3 iterations are there (failed: loss is nan)"
    assert warnings(read_run(folder, "a")) == [said]


def test_an_evaluation_of_another_program_is_no_evaluation(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "rto")
    odd = {"stages": {"a": [], "b": {"x": {"mean": "1", "ci95": 3}}}, "differences": [1]}
    (folder.parent / "summary.json").write_text(json.dumps(odd))
    (found,) = find_evaluations(read_runs([folder]))
    assert found.policies == {"a": {}, "b": {}}
    assert found.differences == {}


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


def test_flat_keeps_lists_and_empty_sections_as_leaves() -> None:
    content = {"a": {"b": [1, None], "c": {}}, "d": "x"}
    assert dict(flat(content)) == {"a.b": "[1, null]", "a.c": "{}", "d": "x"}


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
