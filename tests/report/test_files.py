"""The files of a run folder as a report reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rto.errors import UserError
from rto.report import files
from rto.report.collect import read_run
from rto.report.files import flat
from rto.report.findings import warnings
from run_folders import write_run


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


def test_of_a_long_file_every_nth_line_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 lines with room for 2 every third is read: iterations 0 and 3."""
    folder = write_run(tmp_path / "a", iterations=5)
    monkeypatch.setattr(files, "MAX_ROWS", 2)
    run = read_run(folder, "a")
    assert [row["iteration"] for row in run.metrics] == [0, 3]
    assert "of 3 lines one is read" in run.missing[0]


def test_flat_keeps_lists_and_empty_sections_as_leaves() -> None:
    content = {"a": {"b": [1, None], "c": {}}, "d": "x"}
    assert dict(flat(content)) == {"a.b": "[1, null]", "a.c": "{}", "d": "x"}
