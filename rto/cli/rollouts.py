"""`rto rollouts`: the responses that a run drew, with their scores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rto.cli.one_line_parser import OneLineParser, named, whole
from rto.errors import UserError, foreign
from rto.secrets import hide
from rto.tracking.console import figure
from rto.tracking.quiet import escape_control
from rto.tracking.rollout_read import find_rollouts, read_rollouts

ROWS = 10


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    path = _file(Path(options.run).expanduser(), options.iteration)
    for row in islice(read_rollouts(path), options.rows):
        print(json.dumps(row) if options.json else "\n".join(_lines(row, path)), flush=True)
    return 0


def _file(run: Path, iteration: int | None) -> Path:
    """Of the iteration, or of the last one.

    Raises:
        UserError: the folder has none.
    """
    found = find_rollouts(run)
    if not found:
        raise UserError(f"rollouts: {run / 'rollouts'} has none: name the folder of an online run")
    wanted = max(found) if iteration is None else iteration
    if wanted not in found:
        raise UserError(
            f"rollouts: {run} has no iteration {wanted}: it has {', '.join(map(str, found))}"
        )
    return found[wanted]


def _lines(row: Mapping[str, Any], path: Path) -> Iterator[str]:
    """A row for people: its scores, the prompt and the response, and an empty line."""
    with foreign(f"{path}: not a file of rollouts", "remove the file"):
        tokens = f"{len(row['response_ids'])} tokens{'' if row['finished'] else ', cut'}"
        scores = [f"{role} {figure(x)}" for role, x in _numbers(row["scores"])]
        yield " | ".join([f"prompt {row['prompt_id']}.{row['sample_index']}", tokens, *scores])
        for name in ("prompt", "response"):
            yield f"  {name}: {escape_control(hide(row[name]))}"
        yield ""


def _numbers(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Of the whole response: what it is paid, and sums of log-probs."""
    for role, value in scores.items():
        number = value.get("sum") if isinstance(value, dict) else value
        if number is not None:
            yield role, float(number)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="rto rollouts", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="print rows", allow_abbrev=False)
    show.add_argument("run", type=named, metavar="RUN", help="the folder of an online run")
    show.add_argument("--iteration", type=whole(0), help="counts from 0; default: the last")
    show.add_argument("--rows", type=whole(1), default=ROWS, help=f"at most; default: {ROWS}")
    show.add_argument("--json", action="store_true", help="a JSON object per line, with all tokens")
    return parser
