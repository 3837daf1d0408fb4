"""Curves and bars by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rto.report import curves
from rto.report.collect import RunRecord
from run_folders import metrics_row


def run(*rows: dict[str, float]) -> RunRecord:
    return RunRecord("run", Path("run"), metrics=rows)


def test_neighbours_become_their_mean() -> None:
    assert curves.thin([1, 2, 3, 4, 5], [0, 2, 4, 6, 9], 3) == ([1.5, 3.5, 5], [1, 5, 9])
    assert curves.thin([1, 2], [3, 4], 2) == ([1, 2], [3, 4])


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (-0.3, 0.3, 3, [-0.2, 0.0, 0.2]),
        (1, 16, 5, [5, 10, 15]),
        (0, 4e-6, 4, [0, 1e-6, 2e-6, 3e-6, 4e-6]),
    ],
)
def test_ticks_are_round_numbers(
    low: float, high: float, count: int, expected: list[float]
) -> None:
    assert curves.ticks(low, high, count) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([-0.2, 0.0, 0.2], ["-0.2", "0.0", "0.2"]),
        ([0, 5000, 10000], ["0", "5,000", "10,000"]),
        ([0, 1e-6], ["0", "1e-06"]),
        ([0.25], ["0.25"]),
    ],
)
def test_labels_tell_neighbours_apart(values: list[float], labels: list[str]) -> None:
    assert [label for _, label in curves.labelled(values)] == labels


def test_a_line_spans_the_plot_and_up_is_more() -> None:
    chart = curves.chart([run(metrics_row(0), metrics_row(1))], "reward/mean", points=10)
    (line,) = chart.lines
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.points.split())
    assert (x0, x1) == (curves.LEFT, curves.WIDTH - curves.RIGHT)
    # Values 0 and 0.5 with 6% room on both sides: 0.06/1.12 of the plot's height from its ends.
    height = curves.HEIGHT - curves.TOP - curves.BOTTOM
    room = height * 0.06 / 1.12
    assert y0 == pytest.approx(curves.HEIGHT - curves.BOTTOM - room, abs=0.06)
    assert y1 == pytest.approx(curves.TOP + room, abs=0.06)


def test_every_metric_is_shown_once_and_runs_share_a_chart() -> None:
    runs = [run(metrics_row(0)), run(metrics_row(0, **{"sft/loss": 1.0, "rate/x": 3.0}))]
    found = {s.title: [c.key for c in s.charts] for s in curves.sections(runs, points=10)}
    assert found == {
        "Progress": ["reward/mean", "kl/sequence"],
        "Losses": ["policy/loss", "sft/loss"],
        "Engine against trainer": ["sampler/abs_diff_mean"],
        "Throughput": ["rate/x"],
        "All other metrics": ["response/num", "response/trained"],
    }
    assert [line.run for line in curves.chart(runs, "reward/mean", points=9).lines] == [0, 1]
    assert [line.run for line in curves.chart(runs, "sft/loss", points=9).lines] == [1]


def test_a_constant_metric_has_a_range() -> None:
    for value, expected in ((0.0, 0.0), (4.0, 0.5)):
        chart = curves.chart([run(metrics_row(0, **{"a/b": value}))], "a/b", points=9)
        (y,) = [float(line.points.split(",")[1]) for line in chart.lines]
        plot = curves.HEIGHT - curves.TOP - curves.BOTTOM
        assert y == pytest.approx(curves.HEIGHT - curves.BOTTOM - expected * plot)


def test_stages_are_stacked_and_add_up() -> None:
    """Each iteration: generate 1 s, update 2 s of 4 s."""
    found = curves.timeline(0, run(*(metrics_row(i) for i in range(5))), bars=2)
    assert found is not None
    assert found.totals == {
        "generate": 5,
        "score": 0,
        "update": 10,
        "sync": 0,
        "evaluate": 0,
        "other": 5,
    }
    assert found.seconds == 20
    assert [(bar.first, bar.last) for bar in found.bars] == [(1, 3), (4, 5)]
    (generate, update, other) = found.bars[0].parts
    assert (generate[0], update[0], other[0]) == ("generate", "update", "other")
    plot = found.height - curves.TOP - curves.BOTTOM
    assert [part[2] / plot for part in found.bars[0].parts] == pytest.approx(
        [0.25, 0.5, 0.25], abs=1e-3
    )
    assert other[1] == pytest.approx(curves.TOP, abs=0.02)
    assert generate[1] + generate[2] == pytest.approx(found.height - curves.BOTTOM)


def test_without_iterations_there_is_no_timeline() -> None:
    assert curves.timeline(0, run()) is None
