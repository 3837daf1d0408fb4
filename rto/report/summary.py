"""Summarise a run folder in one line: its state and its last figures, without reading it all."""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rto.report.files import is_number
from rto.secrets import hide
from rto.tracking.run_folder import CHECKPOINTS, holder

MARKS = ("run.json", "config.yaml", "metrics.jsonl")
"""A folder with one of these is a run folder."""
DEPTH = 3
"""How far below a folder its run folders are looked for: `runs/quickstart/sft`."""
STATES = ("running", "lost", "failed", "interrupted", "unknown", "damaged", "finished")
"""In the order of the list. ``lost``: it says that it is running, and no process holds it."""
OUTCOMES = (
    "reward/mean",
    "eval/reward_correlation",
    "eval/accuracy",
    "eval/row_correlation",
    "eval/nll_per_token",
)
"""What a run is after, the first of these that it has."""
MOST_STEPS = 10**12
ABOUT_BYTES = 1_000_000
"""A larger run.json is not one that a run wrote."""


class Damaged(Exception):
    """A file of a run folder is not what a run writes: file, problem."""


@dataclass(frozen=True)
class Summary:
    """What `rto runs` says of a folder. ``loss`` and ``outcome`` are (metric, last value)."""

    path: Path
    state: str
    method: str = ""
    command: str = ""
    started: float | None = None
    """Seconds since 1970."""
    steps: int = 0
    """Iterations (online) or optimizer steps (offline) that are in metrics.jsonl."""
    loss: tuple[str, float] | None = None
    outcome: tuple[str, float] | None = None
    error: str = ""


def find_runs(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Run folders in ``folder``, or itself; a run folder is not looked into."""
    if any((folder / mark).is_file() for mark in MARKS):
        yield folder
        return
    if depth == 0 or folder.is_symlink():
        return
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return
    for path in inside:
        yield from find_runs(path, depth - 1)


def summarise(path: Path) -> Summary:
    """Never fails: what cannot be read makes the state ``damaged``, and is named in ``error``."""
    try:
        return _summary(path)
    except (Damaged, OSError) as error:
        return Summary(path, "damaged", error=str(error))


def _summary(path: Path) -> Summary:
    about = _about(path / "run.json")
    last, outcome = _last_figures(path / "metrics.jsonl")
    results = about.get("results")
    if outcome is None and isinstance(results, Mapping):
        outcome = _outcome(results)
    losses = [key for key in last if key.endswith("/loss")]
    losses.sort(key=lambda key: key.startswith(("critic/", "ptx/")))
    state = _state(path, about)
    return Summary(
        path=path,
        state=state,
        method=_text(about, "method"),
        command=_text(about, "command"),
        started=_started(path, about),
        steps=int(last.get("iteration", -1)) + 1,
        loss=(losses[0], last[losses[0]]) if losses else None,
        outcome=outcome,
        error=_lost(path) if state == "lost" else _text(about, "reason"),
    )


def _lost(path: Path) -> str:
    """What is known of a run whose process has not said how it ended."""
    newest = max((path / CHECKPOINTS).glob("step_*"), default=None)
    kept = "no checkpoint" if newest is None else f"last checkpoint: {newest.name}"
    return f"its process was killed, or the machine went down; {kept}"


def _state(path: Path, about: Mapping[str, object]) -> str:
    status = _text(about, "status") or "unknown"
    if status in ("running", "unknown"):
        held = holder(path) is not None
        return "running" if held else "lost" if status == "running" else "unknown"
    if status not in STATES:
        raise Damaged(f"run.json: status is {status!r:.60}")
    return status


def _about(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    if path.stat().st_size > ABOUT_BYTES:
        raise Damaged(f"run.json: {path.stat().st_size} bytes, more than a run writes")
    return _parsed(path.read_bytes(), "run.json")


def _parsed(text: bytes, where: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise Damaged(f"{where}: {type(content).__name__} instead of an object")
    return content


def _text(about: Mapping[str, object], key: str) -> str:
    value = about.get(key, "")
    return hide(value if isinstance(value, str) else json.dumps(value))


def _started(path: Path, about: Mapping[str, object]) -> float | None:
    """As run.json says it; else by the settings, which a run writes once, when it starts."""
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(_text(about, "began")).timestamp()
    marks = (path / mark for mark in ("config.yaml", "metrics.jsonl", "run.json"))
    return next((mark.stat().st_mtime for mark in marks if mark.is_file()), None)


def _last_figures(path: Path) -> tuple[dict[str, float], tuple[str, float] | None]:
    """The last whole row of metrics, and the newest outcome, which may be an earlier row's."""
    if not path.is_file() or path.stat().st_size == 0:
        return {}, None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n")
        if end < 0:
            return {}, None
        last = _row(content, end - 1 if end else 0)
        outcome = _outcome(last)
        at = -1 if outcome else content.rfind(b'"eval/', 0, end)
        return last, outcome or (_outcome(_row(content, at)) if at >= 0 else None)


def _row(content: mmap.mmap, inside: int) -> dict[str, float]:
    """The row that the byte ``inside`` is in."""
    start = content.rfind(b"\n", 0, inside) + 1
    row = _parsed(content[start : content.find(b"\n", inside)], "metrics.jsonl")
    numbers = {key: value for key, value in row.items() if is_number(value)}
    wrong = [key for key in row if key not in numbers]
    if wrong:
        raise Damaged(f"metrics.jsonl: {wrong[0]!r:.60} is {row[wrong[0]]!r:.60}, not a number")
    if not 0 <= numbers.get("iteration", 0) < MOST_STEPS:
        raise Damaged(f"metrics.jsonl: iteration is {row['iteration']!r:.60}: no run makes that")
    return numbers


def _outcome(metrics: Mapping[str, object]) -> tuple[str, float] | None:
    outcomes = ((key, metrics.get(key)) for key in OUTCOMES)
    return next(((key, value) for key, value in outcomes if is_number(value)), None)


def by_state(summaries: Sequence[Summary]) -> list[Summary]:
    """Those that need a look first; of one state, the newest first."""
    return sorted(summaries, key=lambda each: (STATES.index(each.state), -(each.started or 0)))
