"""`rto eval`: metrics of a model's responses, and their win rate against a baseline's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from rto.cli.eval_flags import parse
from rto.cli.new_file import writable
from rto.evaluation.tables import metric_rows, win_rows
from rto.secrets import hide_words
from rto.sections.ranges import require
from rto.tracking.console import table
from rto.tracking.quiet import quiet

if TYPE_CHECKING:
    from rto.evaluation.judge import WinRate
    from rto.evaluation.suite import Figures


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    given = options.output_dir or f"runs/eval-{time.strftime('%Y%m%d-%H%M%S')}"
    root = writable("--output_dir", given).absolute()
    require(not root.exists() or root.is_dir(), f"--output_dir {root}: is no folder")
    quiet(None)
    console = Console()
    if not console.is_terminal:
        console.width = 150
    title = " against ".join(s.name for s in (options.model, options.baseline) if s is not None)
    console.print(f"rto eval: {title}", style="dim", markup=False, soft_wrap=True)
    from rto.evaluation.run import evaluate, plan_lines, prepare

    job = prepare(options)
    for line in plan_lines(job):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    if options.dry_run:
        return 0
    (root / "logs").mkdir(parents=True, exist_ok=True)
    quiet(root / "logs")
    evaluation = evaluate(job, root, console, hide_words(argv))
    show(console, evaluation.figures, evaluation.win_rates)
    console.print(f"in {root}", style="dim", markup=False, soft_wrap=True)
    return 0


def show(
    console: Console, figures: Mapping[str, Figures], win_rates: Mapping[str, WinRate]
) -> None:
    """Tables of metrics and win rates, and what is missing, with the reason."""
    console.print(table(metric_rows(figures), title="metrics [95% interval over prompts]"))
    missing = {name: why for each in figures.values() for name, why in each.missing.items()}
    for name, why in missing.items():
        console.print(f"{name}: {why}", style="dim", markup=False, soft_wrap=True)
    if win_rates:
        model, baseline = figures
        console.print(table(win_rows(win_rates), title=f"{model} against {baseline}"))
