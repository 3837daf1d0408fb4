"""The GPU check: one CUDA card, every step in processes of its own, figures on one page.

    python -m benchmarks.gpu.run [STEP[:CASE] ...] [--out FILE.md]
    python -m benchmarks.gpu.run --cpu --tiny      tests the program where there is no card

Prints a JSON object per line: what ran on what, then a line per row. The same lines go into a file
beside the page, which is docs/results/gpu.md or, of a dry run, under runs/bench. Lines of other
steps stay there if the card and the versions are the same. A case that fails or takes too long ends
alone. Exit code: 1 where one failed, 2 without CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

from benchmarks.common import ENVIRONMENT, ROOT, WORK, machine
from benchmarks.gpu.page import Entry, Header, read, write
from benchmarks.gpu.steps import STEPS, Case, Step, chosen
from rto.tracking.run_folder import versions

PAGE = ROOT / "docs" / "results" / "gpu.md"
CARD = """
import torch
if torch.cuda.is_available():
    card = torch.cuda.get_device_properties(0)
    print(f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
"""
NO_CUDA = (
    "gpu-check: torch sees no CUDA device here: run `make gpu-check CUDA=1` on a machine with an "
    "NVIDIA GPU, or `python -m benchmarks.gpu.run --cpu --tiny`, which only tests the program"
)
ENDS_IN = 30.0
"""Seconds that a case which took too long has to end its own processes."""


@dataclass(frozen=True)
class Options:
    cpu: bool = False
    tiny: bool = False

    @property
    def flags(self) -> list[str]:
        return [*(["--cpu"] if self.cpu else []), *(["--tiny"] if self.tiny else [])]

    @property
    def environment(self) -> dict[str, str]:
        """One card: the first, unless the caller has named others."""
        return {"CUDA_VISIBLE_DEVICES": "0", **ENVIRONMENT}


def main(argv: Sequence[str] | None = None) -> int:
    given = parse(argv)
    options = Options(given.cpu, given.tiny)
    card = "none" if options.cpu else card_name(options.environment)
    if not card:
        print(NO_CUDA, file=sys.stderr)
        return 2
    out: Path = given.out or (WORK / "gpu" / "dry-run.md" if given.cpu or given.tiny else PAGE)
    out.parent.mkdir(parents=True, exist_ok=True)
    header = Header(card, machine(), versions(), str(date.today()), [command(argv)])
    header, kept = going_on(header, read(out), given.cases)
    print(json.dumps(asdict(header)), flush=True)
    made: list[Entry] = []
    for step, case in given.cases:
        for entry in run_case(step, case, options):
            print(json.dumps(asdict(entry)), flush=True)
            made.append(entry)
        write(out, header, in_order([*kept, *made]))
    print(f"gpu-check: wrote {out}", file=sys.stderr)
    return 1 if any(entry.failed for entry in made) else 0


def going_on(
    header: Header, old: tuple[Header, list[Entry]] | None, cases: Sequence[tuple[Step, Case]]
) -> tuple[Header, list[Entry]]:
    """The header, and the lines that stay: of cases that do not run now, if the same card gave
    them to the same versions."""
    if old is None or (old[0].card, old[0].versions) != (header.card, header.versions):
        return header, []
    running = {(step.name, case.name) for step, case in cases}
    kept = [entry for entry in old[1] if (entry.step, entry.case) not in running]
    commands = [*(old[0].commands if kept else []), *header.commands]
    return replace(header, commands=list(dict.fromkeys(commands))), kept


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """By step and case as they are listed; rows of a case stay as they came."""
    places = [(step.name, case.name) for step in STEPS for case in step.cases]
    return sorted(entries, key=lambda entry: places.index((entry.step, entry.case)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.run")
    parser.add_argument(
        "steps", nargs="*", metavar="STEP[:CASE]", help=", ".join(s.name for s in STEPS)
    )
    parser.add_argument("--cpu", action="store_true", help="no card: what needs one is skipped")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: only tests the program")
    parser.add_argument("--out", type=Path, help="the page; default docs/results/gpu.md")
    given = parser.parse_args(argv)
    try:
        given.cases = chosen(given.steps)
    except ValueError as error:
        parser.error(str(error))
    return given


def command(argv: Sequence[str] | None) -> str:
    given = sys.argv[1:] if argv is None else argv
    return shlex.join(["python", "-m", "benchmarks.gpu.run", *given])


def card_name(environment: Mapping[str, str]) -> str:
    """The card, asked in a process that leaves nothing on it; empty where there is none."""
    asked = [sys.executable, "-c", CARD]
    return subprocess.check_output(asked, cwd=ROOT, env=dict(environment), text=True).strip()


def run_case(step: Step, case: Case, options: Options) -> Iterator[Entry]:
    """The rows that a process of its own leaves, then how it failed if it did."""
    log = WORK / "gpu" / "logs" / f"{step.name}-{case.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.touch()
        module = [sys.executable, "-m", f"benchmarks.gpu.{step.name}", case.name, *options.flags]
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [*module, "--gib", str(case.gib), "--json", str(rows)],
                cwd=ROOT,
                env=options.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            ended = _wait(process, case.limit)
        made = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    yield from (Entry(step.name, case.name, **row) for row in made)
    shown = log.relative_to(ROOT)
    if not ended:
        why = f"took more than {case.limit} s: {last_line(log)} ({shown})"
        yield Entry(step.name, case.name, case.name, failed=why)
    elif process.returncode and not any(row["failed"] for row in made):
        why = f"exit code {process.returncode}: {last_line(log)} ({shown})"
        yield Entry(step.name, case.name, case.name, failed=why)


def _wait(process: subprocess.Popen[bytes], limit: float) -> bool:
    """Whether it ended in time; if not, it is ended with all that it started."""
    try:
        process.wait(limit)
        return True
    except subprocess.TimeoutExpired:
        process.terminate()  # It may have actors to end.
    try:
        process.wait(ENDS_IN)
    except subprocess.TimeoutExpired:
        print(f"gpu-check: process {process.pid} had to be killed", file=sys.stderr)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return False


def last_line(log: Path) -> str:
    """What a log ends with, for people: of an error its own words."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else "it printed nothing"


if __name__ == "__main__":
    sys.exit(main())
