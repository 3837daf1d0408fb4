"""The training commands: parse, check, print the plan or run, say where the results are."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rto.cli.authors import told, with_authors_code
from rto.cli.parse import dump, parse_run
from rto.cli.report import add_report
from rto.config import RunConfig
from rto.errors import ActorLost, UserError
from rto.sections import require
from rto.tracking.quiet import quiet
from rto.tracking.run_folder import RunFolder


@dataclass(frozen=True)
class Finished:
    """Where a run left its results, and its closing figures."""

    folder: Path
    metrics: Mapping[str, float]


def sft(argv: Sequence[str]) -> int:
    return _command("sft", argv)


def reward(argv: Sequence[str]) -> int:
    return _command("reward", argv)


def dpo(argv: Sequence[str]) -> int:
    return _command("dpo", argv)


def fit(argv: Sequence[str]) -> int:
    return _command("fit", argv)


def train(argv: Sequence[str]) -> int:
    return _command("train", argv)


def execute(command: str, config: RunConfig) -> Finished:
    """Check and run one training command in this process.

    A run that fails its checks leaves no folder behind.
    """
    require(config.plan.gpus is None, "plan.gpus plans for other machines: give --dry_run with it")
    path = Path(config.ckpt.output_dir or _default_folder(command, config))
    fresh = not path.exists()
    with RunFolder(path, resume=config.ckpt.load_enable) as folder:
        quiet(folder.logs)
        try:
            run, work = _prepare(command, config)
            found = _find_checkpoint(run, folder)
        except UserError:
            if fresh:
                shutil.rmtree(path)
            raise
        folder.write_config(dump(run.config))
        about = _about(command, run)
        folder.write_about({**about, "status": "running"})
        print(f"{run.method.card}\nrun folder: {folder.path}", flush=True)
        try:
            metrics = work(run, folder, found)
        except ActorLost as error:
            raise ActorLost(f"{error}; {_way_on(folder)}") from error
        folder.write_about({**about, "status": "finished", "results": metrics})
        add_report(folder.path)
        return Finished(folder.path, metrics)


def _about(command: str, run: Any) -> dict[str, Any]:
    card = run.method.card
    data = asdict(run.intake)
    return {"command": command, "method": card.name, "title": str(card), "data": data}


def _find_checkpoint(run: Any, folder: RunFolder) -> Any:
    from rto.cluster.offline import find_checkpoint

    return find_checkpoint(run.config, run.method, folder)


def _way_on(folder: RunFolder) -> str:
    """Where a run that lost an actor can be taken up again."""
    newest = max(folder.checkpoints.glob("step_*"), default=None)
    if newest is None:
        return "no checkpoint was written yet (ckpt.save_steps)"
    return f"last checkpoint: {newest} (--ckpt.load_enable goes on from it)"


def _command(command: str, argv: Sequence[str]) -> int:
    parsed = parse_run(command, argv)
    if parsed.dry_run:
        quiet(None)
        run, _ = _prepare(command, parsed.config)
        from rto.cli.plan import print_plan

        print_plan(run)
        return 0
    finished = execute(command, parsed.config)
    _print_results(finished)
    return 0


def _prepare(command: str, config: RunConfig) -> tuple[Any, Callable[..., dict[str, float]]]:
    """The checked run and the function that runs it. Imports the libraries: call quiet first."""
    config = with_authors_code(command, config)
    if config.algo.authors_code:
        print(told(config))
    from functools import partial

    from rto.cli.methods import build
    from rto.cluster import stages

    if command == "train":
        from rto.cluster.online import run_online

        method = partial(build, config.algo.name, mode="online")
        return stages.prepare_online(config, method), run_online
    from rto.cluster.offline import run_offline

    if command == "reward":
        return stages.prepare_reward(config), run_offline
    method = partial(build, method_name(command, config), mode="offline")
    return stages.prepare_fit(config, method), run_offline


def method_name(command: str, config: RunConfig) -> str:
    return {"sft": "sft", "dpo": config.preference.loss}.get(command, config.algo.name)


def _default_folder(command: str, config: RunConfig) -> Path:
    name = command if command == "reward" else method_name(command, config)
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _print_results(finished: Finished) -> None:
    from rich.console import Console

    from rto.tracking.console import figure, table

    rows = [{"metric": name, "value": figure(x)} for name, x in finished.metrics.items()]
    if rows:
        Console().print(table(rows))
    print(f"model: {finished.folder / 'last'}")
