"""The row of a method, by hand, and the three forms in which it is written."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from rto.comparison.tables import (
    ComparedRow,
    Judged,
    differences,
    markdown,
    plot,
    summarise,
    table_rows,
    write_json,
)
from rto.evaluation.statistics import Mean

START = Judged(np.array([[0.0, 2.0], [1.0, 1.0]]), kl=0.0, length=8.0)
"""Rewards [prompts, samples]: 1 on average for each prompt."""
RUNS = [
    Judged(
        np.array([[2.0, 2.0], [1.0, 3.0]]),
        kl=1.0,
        length=10.0,
        seconds=100.0,
        tokens_trained=1000.0,
        tokens_sampled=4000.0,
    ),
    Judged(
        np.array([[0.0, 4.0], [0.0, 0.0]]),
        kl=3.0,
        length=20.0,
        seconds=300.0,
        tokens_trained=2000.0,
        tokens_sampled=0.0,
    ),
]


@pytest.fixture
def row() -> ComparedRow:
    return ComparedRow(
        start=1.0,
        reward=1.5,
        gain=Mean(0.5, (-0.25, 1.0)),
        win_rate=Mean(0.5625, (0.25, 0.75)),
        kl=2.0,
        length=15.0,
        seconds=200.0,
        tokens_trained=1500.0,
        tokens_sampled=2000.0,
        num_seeds=2,
    )


def test_a_row_by_hand(row: ComparedRow) -> None:
    """Means by prompt: 2 2 and 2 0. Won or tied: 1 .5 | .5 1 and .5 1 | 0 0."""
    got = summarise(RUNS, START)
    assert got.gain.mean == pytest.approx(((2 - 1) + (2 - 1) + (2 - 1) + (0 - 1)) / 4)
    assert got.win_rate.mean == pytest.approx((1 + 0.5 + 0.5 + 1 + 0.5 + 1 + 0 + 0) / 8)
    assert replace(got, gain=row.gain, win_rate=row.win_rate) == row


def test_the_start_gains_nothing_on_itself() -> None:
    got = summarise([START], START)
    assert (got.gain.mean, got.gain.ci95) == (0, (0, 0))
    assert (got.win_rate.mean, got.win_rate.ci95) == (0.5, (0.5, 0.5))


def test_the_gain_is_taken_prompt_by_prompt() -> None:
    """A prompt that is worth more is worth more to the start too: that widens nothing."""
    worth = np.array([[0.0, 0.0], [1000.0, 1000.0]])
    start = replace(START, rewards=START.rewards + worth)
    better = replace(start, rewards=start.rewards + 1)
    got = summarise([better], start)
    assert got.gain.ci95 == pytest.approx((1, 1))


def test_differences_of_every_two_methods() -> None:
    better = [replace(run, rewards=run.rewards + 5) for run in RUNS]
    found = differences({"a": RUNS, "b": better, "c": RUNS})
    assert {name: gap.mean for name, gap in found.items()} == pytest.approx(
        {"a - b": -5, "a - c": 0, "b - c": 5}
    )
    assert [gap.significant for gap in found.values()] == [True, False, True]


def test_the_table(row: ComparedRow) -> None:
    (cells,) = table_rows({"dpo": row})
    assert cells == {
        "method": "dpo",
        "reward": "1.500",
        "gain over start": "+0.500 [-0.250, +1.000]",
        "win rate": "56.2% [25.0%, 75.0%]",
        "KL": "2.00",
        "length": "15.0",
        "seconds": "200",
        "trained tok": "1,500",
        "sampled tok": "2,000",
    }


def test_the_table_as_markdown(row: ComparedRow) -> None:
    rows = {"dpo": row, "rpo:online'": replace(row, reward=2.0)}
    first, blank, *lines = markdown(rows, lines=["`rto compare`"]).splitlines()
    assert (first, blank) == ("`rto compare`", "")
    head, rule, *body = ([cell.strip() for cell in x.strip("|").split("|")] for x in lines)
    assert set(rule) == {"---"}
    assert [dict(zip(head, cells, strict=True)) for cells in body] == table_rows(rows)


def test_the_figures_as_json(row: ComparedRow, tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    gaps = {"a - b": Mean(0.5, (0.25, 1.0)), "a - c": Mean(0.5, (-0.25, 1.0))}
    write_json(path, {"a": row}, gaps, {"budget": 64})
    read = json.loads(path.read_text(encoding="utf-8"))
    assert (set(read), read["budget"]) == ({"budget", "methods", "differences"}, 64)
    assert read["methods"] == {"a": json.loads(json.dumps(asdict(row)))}
    found = read["methods"]["a"]
    for name in ("gain", "win_rate"):
        found[name] = Mean(found[name]["mean"], tuple(found[name]["ci95"]))
    assert ComparedRow(**found) == row
    assert read["differences"] == {
        "a - b": {"mean": 0.5, "ci95": [0.25, 1.0], "significant": True},
        "a - c": {"mean": 0.5, "ci95": [-0.25, 1.0], "significant": False},
    }


def test_the_plot_shows_the_interval_of_each_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    plot(tmp_path / "compare.png", {"dpo": RUNS, "rpo": RUNS[:1]}, START)
    bars = [
        bar.lines[2][0].get_segments()[0][:, 1]
        for bar in drawn[0].axes[0].containers
        if isinstance(bar, ErrorbarContainer)
    ]
    level = START.rewards.mean()
    want = [level + np.array(summarise(runs, START).gain.ci95) for runs in (RUNS, RUNS[:1])]
    np.testing.assert_allclose(bars, want)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "compare.png"
    plot(path, {"dpo": RUNS, "rpo": RUNS[:1]}, START)
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    # The header's width and height: 8 x 5 inches of 150 dots.
    size = [int.from_bytes(content[start : start + 4], "big") for start in (16, 20)]
    assert size == [1200, 750]
