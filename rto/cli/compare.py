"""`rto compare`: methods on the same data, budget and prompts, each with several seeds."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from rto.cli.compare_flags import axis, parser
from rto.tracking.quiet import quiet


def main(argv: Sequence[str]) -> int:
    arguments, base = parser().parse_known_args(list(argv))
    root = Path(arguments.output_dir or f"runs/compare-{time.strftime('%Y%m%d-%H%M%S')}")
    grid = dict(axis(text) for text in arguments.grid)
    # Libraries read its settings when they are imported.
    quiet(None)
    from rich.console import Console

    from rto.comparison.run import ComparisonPlan, compare, entries
    from rto.comparison.tables import markdown, table_rows
    from rto.tracking.console import table

    plan = ComparisonPlan(
        base=base,
        entries=entries(arguments.algos),
        seeds=arguments.seeds,
        budget=arguments.budget,
        prompts=arguments.prompts,
        root=root,
        judge=arguments.judge,
        samples=arguments.samples,
        grid=grid,
    )
    rows = compare(plan)
    console = Console()
    if not console.is_terminal:
        console.width = 150
    console.print(table(table_rows(rows), title=f"{plan.seeds} seeds, {plan.budget} sequences"))
    command = "rto compare " + shlex.join(argv)
    text = markdown(rows, lines=[f"`{command}`"])
    (root / "compare.md").write_text(text, encoding="utf-8")
    print(f"table, plot and figures: {root}/compare.md, compare.png, compare.json")
    return 0
