"""`rto doctor`: versions, devices, and what is open to others, of this machine or of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from rto.cli.one_line_parser import OneLineParser, named
from rto.errors import UserError
from rto.safety import files, machine, run, startup
from rto.safety.finding import Finding
from rto.secrets import hide
from rto.text import one_line
from rto.tracking.run_folder import holder


def main(argv: Sequence[str]) -> int:
    """Returns 1 where something is wrong."""
    parser = OneLineParser(
        prog="rto doctor", description="What is installed, what computes, what others can reach."
    )
    parser.add_argument(
        "run",
        nargs="?",
        type=named,
        help="a run folder: also its rights and its run's listening sockets",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    options = parser.parse_args(argv)
    found = list(chain(machine.findings(), startup.environment(), files.findings()))
    if options.run is not None:
        folder = Path(options.run).expanduser()
        if not folder.is_dir():
            raise UserError(f"doctor: {folder}: no such folder: name a run folder")
        owner = holder(folder)
        pid = int(owner) if owner is not None and owner.isdecimal() else None
        found += run.findings(folder, pid)
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        for each in found:
            print(_line(each))
    return int(any(each.remedy for each in found))


def _line(finding: Finding) -> str:
    mark = "wrong" if finding.remedy else "ok"
    return f"{mark:<5}  {hide(one_line(str(finding), 300))}"
