"""Read a run folder as plain values. If a run has not written a value, it is absent here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rto.errors import UserError
from rto.report.files import read_about, read_config, read_json, read_metrics, shown_text
from rto.secrets import hide, hide_in

MARKS = ("config.yaml", "metrics.jsonl")
"""A folder with one of these is a run folder."""


YEAR_2200 = 7_258_118_400.0


@dataclass(frozen=True)
class RunRecord:
    """One run folder, read.

    ``config`` is flat: dotted name -> value as text. ``metrics`` has one mapping per iteration,
    in order, with ``iteration`` and, where a run wrote it, ``time`` (seconds since 1970).
    ``about`` is ``run.json``: command, method, status, data accounting and closing
    figures; empty for a folder without it.
    """

    name: str
    path: Path
    about: Mapping[str, object] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, float]] = ()
    missing: tuple[str, ...] = ()
    """What could not be read, one sentence each."""

    @property
    def kind(self) -> str:
        """The method; without ``run.json`` it is inferred from config and names of metrics."""
        if "method" in self.about:
            return str(self.about["method"])
        named = self.config.get("algo.name", "")
        # Online training may mix in the loss of demonstrations (ptx).
        if not self.is_online and "sft" in self._areas:
            return "sft"
        if "reward_model" in self._areas:
            return "reward"
        return self.config.get("preference.loss", named) if "preference" in self._areas else named

    @property
    def stage(self) -> str:
        """What part of the recipe the run is, in words."""
        if self.is_online:
            return "online training on sampled responses"
        if self.kind in ("sft", "reward"):
            return {"sft": "supervised fine-tuning", "reward": "reward model"}[self.kind]
        pairs = "preference" in self._areas or self.about.get("command") == "dpo"
        return f"offline training on {'preference pairs' if pairs else 'rated responses'}"

    @property
    def unit(self) -> str:
        """What the rows of its metrics are."""
        return "iterations" if self.is_online else "steps"

    @property
    def is_online(self) -> bool:
        """It samples its responses; of a folder without ``run.json``, where it logged any."""
        if "command" in self.about:
            return self.about["command"] == "train"
        return any("response/num" in row for row in self.metrics)

    @property
    def _areas(self) -> set[str]:
        return {key.split("/")[0] for row in self.metrics for key in row}

    @property
    def length(self) -> int:
        """The number, counted from 1, of the last iteration or step that was logged; 0 for none."""
        return int(self.metrics[-1]["iteration"]) + 1 if self.metrics else 0

    @property
    def is_unfinished(self) -> bool:
        """It says itself that it is not finished; a folder without ``run.json`` says nothing."""
        return bool(self.about) and self.about.get("status") != "finished"

    @property
    def clock(self) -> tuple[float, float] | None:
        """Seconds since 1970 of the begin and of the last metrics; None where they do not tell."""
        if not self.metrics:
            return None
        first, last = self.metrics[0], self.metrics[-1]
        began = first.get("time", -1.0) - first.get("time/iteration", 0.0)
        return (began, last["time"]) if 0 <= began <= last.get("time", -1.0) < YEAR_2200 else None

    @property
    def keys(self) -> list[str]:
        """Names of the metrics, in the order in which they first appear."""
        names = {key: None for row in self.metrics for key in row}
        return [key for key in names if "/" in key]

    def column(self, key: str) -> tuple[list[float], list[float]]:
        """(iterations, counted from 1; values) of one metric, where it was logged."""
        rows = [row for row in self.metrics if key in row]
        return [row["iteration"] + 1 for row in rows], [row[key] for row in rows]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders that the paths name; a folder of run folders gives all of them, oldest first.

    Raises:
        UserError: a path is neither, or not there.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"run folder {path}: no such folder: name one that holds config.yaml")
        inside = [path] if is_run(path) else sorted(filter(is_run, path.iterdir()), key=_began)
        if not inside:
            raise UserError(
                f"{path} is no run folder and holds none: name one with config.yaml or "
                "metrics.jsonl"
            )
        folders |= dict.fromkeys(run.resolve() for run in inside)
    return list(folders)


def is_run(path: Path) -> bool:
    return any((path / mark).is_file() for mark in MARKS)


def _began(path: Path) -> float:
    return min((path / mark).stat().st_mtime for mark in MARKS if (path / mark).is_file())


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Every run, under the shortest name that distinguishes it from the others."""
    return [read_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def read_run(path: Path, name: str) -> RunRecord:
    """
    Raises:
        UserError: a file is there and is not what a run writes: file, line, remedy.
    """
    missing = [
        f"{mark} is missing: {without}"
        for mark, without in (
            ("config.yaml", "no settings are shown"),
            ("versions.json", "no versions are shown"),
            ("metrics.jsonl", "there are no curves"),
        )
        if not (path / mark).is_file()
    ]
    metrics, said = read_metrics(path / "metrics.jsonl")
    about, odd = read_about(path / "run.json")
    versions = read_json(path / "versions.json")
    return RunRecord(
        name=hide(shown_text(name)),
        path=path,
        about=about,
        config=read_config(path / "config.yaml"),
        versions={shown_text(key): shown_text(value) for key, value in hide_in(versions).items()},
        metrics=metrics,
        missing=(*missing, *said, *odd),
    )
