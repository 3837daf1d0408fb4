"""Figures and win rates as rows of a table."""

from __future__ import annotations

from rto.evaluation.judge import WinRate
from rto.evaluation.measured import Measured
from rto.evaluation.statistics import Mean
from rto.evaluation.suite import Figures
from rto.evaluation.tables import metric_rows, win_rows


def test_a_row_per_metric_and_a_column_per_policy() -> None:
    figures = {
        "p": Figures({"a": Measured(1.0, 2, (0.5, 1.5), "m"), "b": Measured(2.0, 2)}, {}),
        "q": Figures({"a": Measured(3.0, 2, None, "m")}, {}),
    }
    assert metric_rows(figures) == [
        {"metric": "a (m)", "p": "1.000 [0.500, 1.500]", "q": "3.000"},
        {"metric": "b", "p": "2.000", "q": ""},
    ]


def test_a_row_per_judge() -> None:
    judged = WinRate(Mean(0.75, (0.5, 1.0)), 4, 1, 8, 2, 2 / 3)
    none = WinRate(None, 4, 4, 8, 8, None)
    first, second = win_rows({"j": judged, "k": none})
    assert first == {
        "judge": "j", "win rate": "75.0% [50.0%, 100.0%]", "prompts": "3 of 4",
        "judgements": "8", "unparsed": "2", "both orders agree": "66.7%",
    }  # fmt: skip
    assert (second["win rate"], second["both orders agree"]) == ("none: no verdict", "")
