"""`import rto`: the training commands as functions, and run folders as data frames.

The settings go through the parser and the checks of the command line: a dict per section, dotted
names, or the short spellings. Heavy imports happen in the call that needs them.
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rto.errors import UserError
from rto.sections.run_config import RunConfig

if TYPE_CHECKING:
    import pandas as pd

COMMANDS = ("sft", "reward", "dpo", "fit", "train")
PATHS = ("actor", "critic", "ref", "reward", "dpo")
"""Sections for which a path means their model_name_or_path."""


def train(**settings: Any) -> Run:
    """Online training, as `rto train`: ``rto.train(algo="rto", actor="runs/sft/last", ...)``.

    Raises:
        UserError: a setting, a file or a row is wrong; nothing was started.
    """
    return _run("train", settings)


def fit(**settings: Any) -> Run:
    """Offline training on stored feedback, as `rto fit`: ``rto.fit(algo="rpo", ...)``."""
    return _run("fit", settings)


def sft(**settings: Any) -> Run:
    """Fine-tuning on demonstrations, as `rto sft`."""
    return _run("sft", settings)


def reward(**settings: Any) -> Run:
    """A pairwise reward model, as `rto reward`."""
    return _run("reward", settings)


def dpo(**settings: Any) -> Run:
    """A policy from preference pairs, as `rto dpo`: ``rto.dpo(loss="simpo", ...)``."""
    return _run("dpo", settings)


def load_config(file: str | os.PathLike[str], *, command: str = "", **settings: Any) -> RunConfig:
    """The checked configuration in a YAML file, the settings given here in place of its own.

    ``command`` says which command's settings they are; of a run folder its ``run.json`` does, and
    `train` where nothing does.
    """
    from rto.sections.parse import parse_run

    path = Path(file).expanduser()
    if not command:
        said = _read_json(path.parent / "run.json").get("command")
        command = said if said in COMMANDS else "train"
    return parse_run(command, flags({"config": path, **settings})).config


class Run:
    """A run folder: what a function of this module returns, and what any run left."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        from rto.report.summary import find_runs

        if list(find_runs(self.folder, depth=0)) != [self.folder]:
            raise UserError(
                f"run folder {self.folder}: it holds no run: name one with config.yaml or "
                "metrics.jsonl"
            )

    def __repr__(self) -> str:
        return f"rto.Run({str(self.folder)!r})"

    @property
    def state(self) -> str:
        """What `rto runs` says: finished, failed, running, ..."""
        from rto.report.summary import summarise

        return summarise(self.folder).state

    @property
    def config(self) -> RunConfig:
        """The resolved settings."""
        return load_config(self.folder / "config.yaml")

    @property
    def results(self) -> dict[str, float]:
        """The closing figures; empty before the run has ended."""
        return dict(_read_json(self.folder / "run.json").get("results", {}))

    @property
    def model(self) -> Path:
        """The newest export, which ``from_pretrained`` loads."""
        return self._export("last")

    @property
    def best(self) -> Path:
        """The best export (docs/checkpoints.md)."""
        return self._export("best")

    @property
    def metrics(self) -> pd.DataFrame:
        """A row per iteration (online) or optimizer step (offline), by its number; a column per
        metric, NaN where an iteration does not have it."""
        import pandas as pd

        from rto.report.collect import read_metrics

        rows, _ = read_metrics(self.folder / "metrics.jsonl")
        return pd.DataFrame(rows, columns=None if rows else ["iteration"]).set_index("iteration")

    def rollouts(self, iterations: int | Sequence[int] | None = None) -> pd.DataFrame:
        """A row per response of these iterations, of all where none is named.

        A score per token becomes two columns: its sum by the role's name where there is one, and
        the list ``<role>_tokens``.
        """
        import pandas as pd

        from rto.tracking.rollout_read import find_rollouts

        paths = find_rollouts(self.folder)
        if iterations is not None:
            wanted = [iterations] if isinstance(iterations, int) else list(iterations)
            absent = [number for number in wanted if number not in paths]
            if absent:
                raise UserError(
                    f"{self.folder / 'rollouts'} has no iteration {absent[0]}: it has "
                    f"{', '.join(map(str, paths)) or 'none'}"
                )
            paths = {number: paths[number] for number in wanted}
        return pd.DataFrame([row for number in paths for row in _responses(number, paths[number])])

    def _export(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_dir():
            raise UserError(
                f"run folder {self.folder} has no export `{name}` (state: {self.state})"
            )
        return path


def _run(command: str, settings: Mapping[str, Any]) -> Run:
    from rto.sections.parse import parse_run

    return Run(_execute(command, parse_run(command, flags(settings)).config))


def _execute(command: str, config: RunConfig) -> Path:
    from rto.runs.execute import execute

    return execute(command, config).folder


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line has them: ``{"actor": {"adam": {"lr": 1e-6}}}`` becomes
    ``--actor.adam.lr=1e-06``."""
    return [f"--{name}={_text(name, value)}" for name, value in _leaves(settings, "")]


def _leaves(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        elif name in PATHS:
            yield f"{name}.model_name_or_path", value
        else:
            yield name, value


def _text(name: str, value: Any) -> str:
    """A value as a flag holds it; a list as JSON, whatever its items hold."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Real):
        return str(value)
    if isinstance(value, list | tuple):
        return json.dumps([os.fspath(x) if isinstance(x, os.PathLike) else x for x in value])
    raise UserError(
        f"{name} is a {type(value).__name__}: give text, a number, a list, or a dict of settings"
    )


def _read_json(path: Path) -> dict[str, Any]:
    from rto.report.collect import read_json

    return read_json(path)


def _responses(iteration: int, path: Path) -> Iterator[dict[str, Any]]:
    from rto.errors import foreign
    from rto.tracking.rollout_read import read_rollouts

    with foreign(f"{path}: not a file of rollouts", "remove the file"):
        for row in read_rollouts(path):
            scores = row.pop("scores")
            yield {"iteration": iteration, **row, **dict(_columns(scores))}


def _columns(scores: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for role, value in scores.items():
        if isinstance(value, dict):
            if "sum" in value:
                yield role, value["sum"]
            yield f"{role}_tokens", value["tokens"]
        else:
            yield role, value
