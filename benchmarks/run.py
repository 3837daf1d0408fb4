"""Every figure with its target, in a table and in benchmarks/latest.json.

    python -m benchmarks.run [NAME ...] [--model DIR] [--feedback FILE] [--quick] [--out FILE]

NAME is a figure, or a module, which stands for all of its figures. Each benchmark runs in a process
of its own, with nothing else on the machine if its figures are to mean anything. The result file
keeps the entries of figures that were not asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common import ROOT, TARGETS, WORK, Figure, Options, add_options
from rto.tracking.console import figure as short
from rto.tracking.console import table

LATEST = Path(__file__).with_name("latest.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 when a benchmark did not run to its end; a missed target is no failure."""
    arguments = parse(argv)
    names = arguments.names or list(TARGETS)
    options = Options(arguments.model, arguments.quick, arguments.feedback)
    WORK.mkdir(parents=True, exist_ok=True)
    found: dict[str, Figure] = {}
    failed: list[str] = []
    for module in dict.fromkeys(TARGETS[name].module for name in names):
        print(f"== {module}", flush=True)
        log = WORK / f"{module}.log"
        figures = measure(module, options, log=log)
        found |= {figure.name: figure for figure in figures if figure.name in names}
        if not figures:
            failed.append(f"{module} did not run to its end: see {log.relative_to(ROOT)}")
    Console().print(table([row(name, found) for name in names]))
    out = arguments.out or (None if options.quick else LATEST)
    if out is not None:
        write(out, found)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TARGETS))
    add_options(parser)
    parser.add_argument("--out", type=Path, help="default benchmarks/latest.json, none if --quick")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if not figures_of(name)]
    if unknown:
        parser.error(f"unknown figure {unknown[0]!r}: one of {', '.join(TARGETS)}")
    arguments.names = [figure for name in arguments.names for figure in figures_of(name)]
    return arguments


def figures_of(name: str) -> list[str]:
    """The figure of this name, or those of the module of this name."""
    if name in TARGETS:
        return [name]
    return [figure for figure, target in TARGETS.items() if target.module == name]


def measure(module: str, options: Options, *, log: Path) -> list[Figure]:
    """The figures of one module, measured in a fresh process; none if it failed."""
    with tempfile.TemporaryDirectory() as folder, log.open("w", encoding="utf-8") as output:
        result = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"benchmarks.{module}", "--json", str(result)]
        if options.model is not None:
            command += ["--model", str(options.model.absolute())]
        if options.feedback is not None:
            command += ["--feedback", str(options.feedback.absolute())]
        if options.quick:
            command.append("--quick")
        subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
        if not result.is_file():
            return []
        return [Figure(**each) for each in json.loads(result.read_text(encoding="utf-8"))]


def row(name: str, found: Mapping[str, Figure]) -> dict[str, str]:
    """One line of the table."""
    target = TARGETS[name]
    sign = ">=" if target.better == "higher" else "<="
    line = {"figure": name, "target": f"{sign} {target.value:g}"}
    if name not in found:
        return {**line, "value": "-", "met": "failed", "from": ""}
    figure = found[name]
    met = "yes" if target.met(figure.value) else "MISSED"
    return {**line, "value": short(figure.value), "met": met, "from": figure.detail}


def write(path: Path, found: Mapping[str, Figure]) -> None:
    """Put the new entries in the place of older ones of the same name, in the targets' order."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    entries: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in old}
    entries |= {name: figure.entry() for name, figure in found.items()}
    kept = [entries[name] for name in TARGETS if name in entries]
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
