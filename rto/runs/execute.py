"""One training command in this process: checked, prepared, run, with its folder and its report."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rto.report.files import read_about
from rto.runs.large_pages import use_large_pages
from rto.runs.mirror import mirrored, open_mirror
from rto.runs.preflight import preflight
from rto.runs.restarts import Restarts
from rto.runs.run_report import add_report
from rto.sections.methods import MethodSettings
from rto.sections.parse import dump
from rto.sections.paths import absolute_paths
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.tracking.phases import begin, tell
from rto.tracking.quiet import quiet
from rto.tracking.run_folder import CHECKPOINTS, RunFolder, check_free, check_going_on, check_place
from rto.tracking.run_state import RunState
from rto.tracking.signals import end_on_signals

if TYPE_CHECKING:
    from rto.card import Card
    from rto.data.accounting import RowCounts
    from rto.runs.offline import OfflineRun
    from rto.runs.online import OnlineRun
    from rto.training.checkpoint import Checkpoint

    Run = OnlineRun | OfflineRun
    Work = Callable[[RunFolder, Checkpoint | None], dict[str, float]]


@dataclass(frozen=True)
class Finished:
    """Where a run left its results, and its closing figures."""

    folder: Path
    metrics: Mapping[str, float]


def execute(command: str, config: RunConfig) -> Finished:
    """Check and run one training command in this process.

    A run that fails its checks writes nothing but the checkpoint that it fetched (`ckpt.mirror`):
    its folder is made behind them.
    """
    end_on_signals()
    require(config.plan.gpus is None, "plan.gpus plans for other machines: give --dry_run with it")
    config = absolute_paths(config)
    place = check_place(config.ckpt.output_dir or default_folder(command, config))
    check_free(place, resume=config.ckpt.load_enable)
    open_mirror(config.ckpt.mirror, place, resume=config.ckpt.load_enable)
    starts = check_going_on(place) if config.ckpt.load_enable else ""
    preflight(command, config)
    announce(command, config, place)
    if starts:
        print(starts, flush=True)
    quiet(None)
    use_large_pages()
    run, work = prepared(command, config)
    checkpoint = _find_checkpoint(run, place, resume=config.ckpt.load_enable)
    with RunFolder(place, resume=config.ckpt.load_enable) as folder:
        quiet(folder.logs)
        folder.write_config(dump(run.config, command))
        earlier = _earlier_restarts(folder) if checkpoint is not None else []
        print(f"{run.method.card}\nrun folder: {folder.path}", flush=True)
        print(dtype_line(config, run), flush=True)
        with (
            mirrored(config.ckpt.mirror, folder.path),
            RunState(folder, _about(command, run.method.card, run.row_counts, earlier)) as state,
        ):
            restarts = Restarts(
                config.ray.max_restarts,
                newest=lambda: _find_checkpoint(run, place, resume=True),
                note=lambda made: state.note(restarts=[*earlier, *made]),
            )
            state.finish_with(restarts.run(work, folder, checkpoint))
        add_report(folder.path)
        return Finished(folder.path, state.results)


def announce(command: str, config: RunConfig, folder: Path | None) -> None:
    """The line that is there at once, before any library is imported."""
    name = command if command == "reward" else config.algo.name
    where = "" if folder is None else f" -> {folder}"
    begin(f"rto {command}: {name} from {config.actor.model_name_or_path}{where}")


def _about(
    command: str, card: Card, row_counts: RowCounts, restarts: Sequence[object] = ()
) -> dict[str, object]:
    data = asdict(row_counts)
    about = {"command": command, "method": card.name, "title": str(card), "data": data}
    return {**about, "restarts": restarts} if restarts else about


def _earlier_restarts(folder: RunFolder) -> list[object]:
    """Those before the checkpoint that the run goes on from."""
    about, _ = read_about(folder.path / "run.json")
    restarts = about.get("restarts")
    return restarts if isinstance(restarts, list) else []


def _find_checkpoint(run: Run, place: Path, *, resume: bool) -> Checkpoint | None:
    from rto.runs.offline import find_checkpoint

    ckpt = replace(run.config.ckpt, load_enable=resume)
    return find_checkpoint(replace(run.config, ckpt=ckpt), run.method, place / CHECKPOINTS)


def prepared(command: str, config: RunConfig) -> tuple[Run, Work]:
    """The checked run and the function that runs it. Imports the libraries: call quiet first."""
    tell("importing libraries")
    from rto.cluster.device import run_device
    from rto.models.device import with_dtype

    config = with_dtype(config, run_device(config))
    settings = config.algo.settings
    told = settings.says() if isinstance(settings, MethodSettings) else ""
    for line in filter(None, (told, config.ds.says())):
        print(line)
    from functools import partial

    from rto.registry import build
    from rto.runs import prepare

    tell("reading tokenizers and data")
    if command == "train":
        from rto.runs.online import run_online

        method = partial(build, mode="online")
        online = prepare.prepare_online(config, method)
        return online, partial(run_online, online)
    from rto.runs.offline import run_offline

    if command == "reward":
        offline = prepare.prepare_reward(config)
    else:
        method = partial(build, mode="offline")
        offline = prepare.prepare_fit(config, method)
    return offline, partial(run_offline, offline)


def dtype_line(asked: RunConfig, run: Run) -> str:
    from rto.models.device import dtype_told

    return dtype_told(asked, run.config, run.plan.device)


def default_folder(command: str, config: RunConfig) -> Path:
    name = command if command == "reward" else config.algo.name
    name = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:32]  # One that is no method is refused later.
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
