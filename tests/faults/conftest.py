"""Rows of docs/results/faults.json: what was tried, and how often the promise held."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "faults.json"
rows: dict[str, Tally] = {}


@dataclass
class Tally:
    """Of one goal: ``what`` a try is, and in how many of them it did as promised."""

    what: str
    tried: int = 0
    passed: int = 0

    def count(self, held: bool) -> bool:
        self.tried += 1
        self.passed += held
        return held


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """The row that a test's ``goal`` mark names, which must have held in every try."""
    marker = request.node.get_closest_marker("goal")
    name, what = marker.args
    row = rows.setdefault(name, Tally(what))
    yield row
    assert row.tried, f"{name}: nothing was tried"
    assert row.passed == row.tried, f"{name}: held in {row.passed} of {row.tried} tries"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and put the rows of this run in the place of older ones."""
    if not rows:
        return
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known |= {name: asdict(row) for name, row in rows.items()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(known, key=lambda name: (name[0], int(name[1:])))
    table = json.dumps({name: known[name] for name in ordered}, indent=2)
    RESULTS.write_text(table + "\n", encoding="utf-8")
    terminalreporter.section("promises kept under faults")
    for name in ordered:
        row = known[name]
        new = "" if name in rows else "  (of an earlier run)"
        terminalreporter.line(f"{name:4} {row['passed']:4}/{row['tried']:<4} {row['what']}{new}")
