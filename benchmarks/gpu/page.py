"""The page of the GPU check: what was measured, on what, and what the tables mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.gpu.steps import STEPS, Step

NOT_RUN = (
    "**Not yet run on a GPU.** There are no figures so far; below is what the tables will hold."
)


@dataclass(frozen=True)
class Entry:
    """A line of gpu.jsonl: figures, or why there are none."""

    step: str
    case: str
    name: str
    figures: Mapping[str, float] = field(default_factory=dict)
    skipped: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Header:
    """The first line of gpu.jsonl: what ran on what."""

    card: str
    machine: str
    versions: Mapping[str, object]
    date: str
    commands: Sequence[str]


def page(header: Header | None, entries: Sequence[Entry]) -> str:
    """The whole page in Markdown; without a header, that of a check that was never run."""
    parts = ["# The GPU check", _intro(header)]
    parts += [_section(step, [e for e in entries if e.step == step.name]) for step in STEPS]
    return "\n\n".join(parts) + "\n"


def _intro(header: Header | None) -> str:
    what = (
        "This page shows what only a CUDA card can: whether packed rows are exact there, what "
        "updates, log-probs, engines and pushes cost, and what memory they take. "
        "`make gpu-check CUDA=1` writes it. Each case runs in a process of its own with a time "
        "limit. All models but SmolLM2 have random weights. "
        "[Clusters](../clusters.md#the-gpu-check) says how to run a part of it."
    )
    if header is None:
        return f"{what}\n\n{NOT_RUN}"
    versions = ", ".join(f"{name} {value}" for name, value in header.versions.items())
    commands = ", ".join(f"`{command}`" for command in header.commands)
    return (
        f"{what}\n\nCard: {header.card}. Machine: {header.machine}. Date: {header.date}. "
        f"Command: {commands}.\n\nVersions: {versions}."
    )


def _section(step: Step, entries: Sequence[Entry]) -> str:
    text = f"## {step.title}\n\n{step.about}"
    return f"{text}\n\n{table(entries)}" if entries else text


def table(entries: Sequence[Entry]) -> str:
    """A column per figure, in the order in which they come."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.figures))
    notes = any(entry.skipped or entry.failed for entry in entries)
    columns = ["case", *names, *(["note"] if notes else [])]
    lines = [columns, ["---"] * len(columns)]
    for entry in entries:
        found = [shown(entry.figures[name]) if name in entry.figures else "" for name in names]
        lines.append([entry.name, *found, *([_note(entry)] if notes else [])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: float) -> str:
    """Four digits that count, and thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _note(entry: Entry) -> str:
    if entry.failed:
        return f"failed: {entry.failed}".replace("|", r"\|")
    return f"skipped: {entry.skipped}" if entry.skipped else ""


def write(path: Path, header: Header, entries: Sequence[Entry]) -> None:
    """The page, and beside it its lines as JSON."""
    path.write_text(page(header, entries), encoding="utf-8")
    lines = [header, *entries]
    text = "".join(json.dumps(asdict(line)) + "\n" for line in lines)
    path.with_suffix(".jsonl").write_text(text, encoding="utf-8")


def read(path: Path) -> tuple[Header, list[Entry]] | None:
    """What ``write`` left beside the page, if it did."""
    file = path.with_suffix(".jsonl")
    if not file.is_file():
        return None
    first, *rest = file.read_text(encoding="utf-8").splitlines()
    return Header(**json.loads(first)), [Entry(**json.loads(line)) for line in rest]
