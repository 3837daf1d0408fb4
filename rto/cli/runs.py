"""`rto runs`: the run folders of a folder by state, with the last of their figures."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rto.cli.one_line_parser import OneLineParser, named
from rto.errors import UserError
from rto.report.summary import Summary, by_state, find_runs, summarise
from rto.secrets import hide
from rto.tracking.console import figure, table

WIDTH = 160
"""Columns of the table where nobody's terminal sets them."""


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    folder = Path(options.folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"runs: {folder}: no such folder: name one that holds run folders")
    summaries = by_state([summarise(path) for path in find_runs(folder)])
    if options.json:
        print(json.dumps([_plain(each) for each in summaries], indent=2))
    elif not summaries:
        print(f"no run folders in {folder}")
    else:
        _show(summaries, folder)
    return 0


def _show(found: Sequence[Summary], folder: Path) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table([_shown(each, folder) for each in found]))


def _shown(each: Summary, folder: Path) -> dict[str, str]:
    started = each.started
    return {
        "run": hide(str(each.path.relative_to(folder) if each.path != folder else each.path)),
        "state": each.state,
        "method": each.method,
        "started": "" if started is None else time.strftime("%F %H:%M", time.localtime(started)),
        "steps": str(each.steps),
        "loss": _figure(each.loss, named=False),
        "reward or eval": _figure(each.outcome, named=True),
        "error": each.error,
    }


def _figure(metric: tuple[str, float] | None, *, named: bool) -> str:
    if metric is None:
        return ""
    name, value = metric
    return f"{name} {figure(value)}" if named else figure(value)


def _plain(each: Summary) -> dict[str, object]:
    """For other programs: a metric by its name, times in seconds since 1970."""
    return {
        "path": str(each.path),
        "state": each.state,
        "command": each.command,
        "method": each.method,
        "started": each.started,
        "steps": each.steps,
        "metrics": dict(metric for metric in (each.loss, each.outcome) if metric is not None),
        "error": each.error,
    }


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="rto runs", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "folder", nargs="?", type=named, default="runs", metavar="FOLDER", help="default: runs"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    return parser
