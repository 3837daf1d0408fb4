"""`rto report`: run folders as one HTML file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rto.cli.one_line_parser import OneLineParser, named, whole
from rto.errors import UserError
from rto.report.collect import find_runs, is_run
from rto.report.page import write_report
from rto.secrets import hide
from rto.text import one_line
from rto.tracking.run_folder import holder

NAME = "report.html"
EVERY = 10
"""Seconds between two pages of `--watch`."""
BETWEEN_STAGES = 60
"""Seconds for which no run of a folder of runs may go on before `--watch` ends."""


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    paths = [Path(path) for path in options.runs]
    target = checked(Path(options.output)) if options.output else default_target(paths)
    if options.watch:
        watch(paths, target, options.every or EVERY)
    elif options.every:
        raise UserError("report: --every goes with --watch: add it")
    size = write_report(paths, target)
    print(f"report: {target} ({size / 1e6:.1f} MB)")
    return 0


def watch(paths: Sequence[Path], target: Path, every: int) -> None:
    """Write the page, which loads itself again, every ``every`` seconds until the run ends or
    Ctrl-C. Of a folder of runs the next stage is waited for.

    What cannot be read now is told on stderr, and the last page stays.

    Raises:
        UserError: a path is no run folder.
    """
    find_runs(paths)
    patience = 0 if all(map(is_run, paths)) else BETWEEN_STAGES
    print(f"report: {target}, anew every {every} s; Ctrl-C ends it", flush=True)
    try:
        _watch(paths, target, every, patience)
    except KeyboardInterrupt:
        print("ended by Ctrl-C")


def _watch(paths: Sequence[Path], target: Path, every: int, patience: float) -> None:
    """Until no run is going on, and none was for ``patience`` seconds."""
    seen, said = time.monotonic(), ""
    while True:
        problem = ""
        try:
            if is_running(paths):
                seen = time.monotonic()
            elif time.monotonic() - seen >= patience:
                return
            write_report(paths, target, reload=every)
        except UserError as error:
            problem = str(error)
        if problem and problem != said:
            print(f"no new report for now: {hide(one_line(problem))}", file=sys.stderr)
        said = problem
        time.sleep(every)


def is_running(paths: Sequence[Path]) -> bool:
    """Whether a process is at work in one of the run folders."""
    return any(holder(run) is not None for run in find_runs(paths))


def checked(target: Path) -> Path:
    if not target.parent.is_dir():
        raise UserError(f"report: --output {target}: no folder {target.parent}: make it first")
    if target.is_dir():
        raise UserError(f"report: --output {target}: is a folder: name a file")
    if target.exists() and not (target.is_file() and _is_page(target)):
        raise UserError(
            f"report: --output {target}: is there and is no HTML page: name another file"
        )
    return target


def _is_page(path: Path) -> bool:
    """Only what may be an older report is written over: no settings or metrics of a run."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    return not start or start.startswith((b"<!doctype html", b"<html"))


def default_target(paths: Sequence[Path]) -> Path:
    """In the folder that is told of, or where the command runs for several."""
    return paths[0] / NAME if len(paths) == 1 else Path(NAME)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """
    Raises:
        UserError: one line with the argument and the remedy.
    """
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="rto report", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="+", type=named, metavar="RUN", help="run folder, or a folder of run folders"
    )
    parser.add_argument(
        "--output",
        type=named,
        metavar="FILE",
        help=f"where to write; default {NAME} in RUN, or here for several",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="write it again and again while the run goes on; the page loads itself again",
    )
    parser.add_argument(
        "--every",
        type=whole(1, 86_400),
        metavar="SECONDS",
        help=f"between two pages of --watch; default {EVERY}",
    )
    return parser
