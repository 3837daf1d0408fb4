"""The training commands: parse, check, print the plan or run, say where the results are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rto.runs.execute import announce, default_folder, dtype_line, execute, prepared
from rto.runs.preflight import preflight
from rto.runs.supervise import program, supervise
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig
from rto.tracking.quiet import quiet
from rto.tracking.run_folder import RunFolder, check_place

if TYPE_CHECKING:
    from rto.runs.offline import OfflineRun
    from rto.runs.online import OnlineRun
    from rto.training.checkpoint import Checkpoint

    Run = OnlineRun | OfflineRun
    Work = Callable[[RunFolder, Checkpoint | None], dict[str, float]]


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


def _command(command: str, argv: Sequence[str]) -> int:
    parsed = parse_run(command, argv)
    if parsed.dry_run:
        check_place(parsed.config.ckpt.output_dir or default_folder(command, parsed.config))
        quiet(None)
        preflight(command, parsed.config)
        announce(command, parsed.config, None)
        run, _ = prepared(command, parsed.config)
        from rto.cli.dry_run import print_plan

        print(dtype_line(parsed.config, run), flush=True)
        print_plan(command, run)
        return 0
    if parsed.supervise:
        return _supervised(command, argv, parsed.config)
    finished = execute(command, parsed.config)
    from rto.cli.results import print_results

    print_results(finished)
    return 0


def _supervised(command: str, argv: Sequence[str], config: RunConfig) -> int:
    """The same command in a process of its own, in a run folder that all its starts share."""
    folder = check_place(config.ckpt.output_dir or default_folder(command, config))
    line = [*program(), command, *(word for word in argv if word != "--supervise")]
    if config.ckpt.output_dir is None:
        line += ["--ckpt.output_dir", str(folder)]
    return supervise(line, folder)
