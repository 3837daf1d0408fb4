"""`rto report`: run folders as one HTML file."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rto.cli.one_line_parser import OneLineParser
from rto.errors import UserError

NAME = "report.html"
SECONDS = 120
"""A report that a run makes at its end gets no more."""


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    from rto.report.page import write_report

    paths = [Path(path) for path in options.runs]
    target = checked(Path(options.output)) if options.output else default_target(paths)
    size = write_report(paths, target)
    print(f"report: {target} ({size / 1e6:.1f} MB)")
    return 0


def checked(target: Path) -> Path:
    if not target.parent.is_dir():
        raise UserError(f"report: --output {target}: no folder {target.parent}: make it first")
    if target.is_dir():
        raise UserError(f"report: --output {target}: is a folder: name a file")
    return target


def default_target(paths: Sequence[Path]) -> Path:
    """In the folder that is told of, or where the command runs for several."""
    return paths[0] / NAME if len(paths) == 1 else Path(NAME)


def add_report(folder: Path) -> None:
    """The report of a folder, made in a process of its own: its failure is one warning line."""
    command = [sys.executable, "-m", "rto.cli.main", "report", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"no report was written: {error}", file=sys.stderr)
        return
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode == 0:
        print(said[-1])
    else:
        reason = said[-1] if said else f"exit code {done.returncode}"
        print(f"no report was written: {reason}", file=sys.stderr)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """
    Raises:
        UserError: one line with the argument and the remedy.
    """
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="rto report", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder, or a folder of run folders"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"where to write; default {NAME} in RUN, or here for several",
    )
    return parser
