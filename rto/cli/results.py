"""What a training command prints at its end: the last figures, and where the model is."""

from __future__ import annotations

from rich.console import Console

from rto.runs.execute import Finished
from rto.tracking.console import figure, table


def print_results(finished: Finished) -> None:
    rows = [{"metric": name, "value": figure(x)} for name, x in finished.metrics.items()]
    if rows:
        Console().print(table(rows))
    print(f"model: {finished.folder / 'last'}")
