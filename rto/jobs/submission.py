"""What a job server is given: a job, the flags behind ``--``, and the run folder that they name.

It is kept in the job's metadata, as JSON and without secrets, so that the same job can be submitted
again.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rto.cli.main import parse
from rto.errors import UserError
from rto.jobs.job_file import HERE, JobFile, check_overrides
from rto.sections.parse import parse_run, split
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig

RUNS = ("sft", "reward", "dpo", "fit", "train")
"""Commands of `rto` that write a run folder, and go on from its checkpoint."""
OUTPUT_DIR = "ckpt.output_dir"
RECORD = "rto"
"""Key of the metadata that holds the whole submission."""
STOP_SECONDS = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""What a stopped run has to release its actors and to write how it ended; Ray's own 3 s are too few
for that."""


@dataclass(frozen=True)
class JobRun:
    """What an `rto` command of a job asks for."""

    command: str
    config: RunConfig
    output_dir: str | None
    """As it was written; None where nothing names it."""


@dataclass(frozen=True)
class Submission:
    """One job as a job server gets it."""

    name: str
    line: str
    """The shell line of the job itself, with the flags behind ``--`` at its end."""
    folder: str | None
    """Where the line runs; None in a copy of the files that were uploaded."""
    runtime_env: Mapping[str, Any]
    """What Ray calls so; an absolute working_dir of this machine, or none."""
    resources: Mapping[str, float]
    run_folder: str | None = None
    """As the cluster's nodes name it; None where the job is no run that can go on."""
    going_on: bool = False
    """Whether it goes on from the newest checkpoint of its run folder."""

    @property
    def command(self) -> str:
        """The shell line that the cluster runs.

        Without a directory to upload, it enters the submitter's folder and prefers the
        submitter's interpreter: right on one machine and on a shared file system.
        """
        line = f"{self.line} --ckpt.load_enable true" if self.going_on else self.line
        if self.folder is None:
            return line
        programs = shlex.quote(str(Path(sys.executable).parent))
        return f"cd {shlex.quote(self.folder)} && export PATH={programs}:$PATH && {line}"

    def metadata(self) -> dict[str, str]:
        shown = {"name": self.name, RECORD: json.dumps(asdict(self))}
        return shown if self.run_folder is None else {**shown, "run_folder": self.run_folder}

    def again(self, overrides: Sequence[str]) -> Submission:
        """The same job, from the newest checkpoint of its run folder on, with more flags."""
        line = " ".join([self.line, *map(shlex.quote, overrides)])
        return replace(self, line=line, going_on=True)


def read_submission(metadata: Mapping[str, str] | None) -> Submission | None:
    """What a job's metadata keeps; None of a job that was submitted by other means.

    Raises:
        UserError: another version of this program wrote it.
    """
    record = (metadata or {}).get(RECORD)
    if record is None:
        return None
    try:
        return Submission(**json.loads(record))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the job's metadata ({RECORD}) is not what this version writes: submit the job anew "
            "with --ckpt.load_enable true and its --ckpt.output_dir"
        ) from error


def submission(job: JobFile, overrides: Sequence[str]) -> tuple[Submission, JobRun | None]:
    """The job with these flags, checked, and with a run folder of its own where none is named.

    Raises:
        UserError: as `rto` itself would raise it; a run folder inside of the uploaded copy.
    """
    check_overrides(overrides)
    line = " ".join([job.entrypoint, *map(shlex.quote, overrides)])
    uploaded = job.working_dir
    run = check_run(line, uploaded or HERE)
    run_folder = None
    if run is not None:
        named = run.output_dir or _new_folder(job)
        if run.output_dir is None:
            line = f"{line} --{OUTPUT_DIR} {shlex.quote(named)}"
        run_folder = _on_the_nodes(named, uploaded)
    return Submission(
        name=job.name,
        line=line,
        folder=str(HERE) if uploaded is None else None,
        runtime_env=_runtime_env(job),
        resources=job.resources,
        run_folder=run_folder,
    ), run


def is_rto(line: str) -> bool:
    return shlex.split(line)[0] == "rto"


def check_run(line: str, folder: Path) -> JobRun | None:
    """Check an `rto` command's flags and files here, before anything is sent; None where it is no
    training command, or no command of `rto`.

    Args:
        folder: where the relative paths of the command start.

    Raises:
        UserError: as `rto` itself would raise it.
    """
    if not is_rto(line):
        return None
    arguments = shlex.split(line)[1:]
    with contextlib.chdir(folder):
        if not arguments or arguments[0] not in RUNS:
            parse(arguments)
            return None
        command, *flags = arguments
        config = parse_run(command, flags).config
        _require_data(command, config)
        given = [words for _, name, words in split(flags).flags if name == OUTPUT_DIR]
        return JobRun(command, config, given[-1][0] if given else config.ckpt.output_dir)


def _require_data(command: str, config: RunConfig) -> None:
    """The rows themselves are on the cluster; that the run has some is said here."""
    own = "prompt_dataset" if command == "train" else "dataset"
    data = config.data
    rows = data.prompt_dataset if command == "train" else data.dataset
    require(
        bool(rows or data.feedback),
        f"no rows: give --data.feedback (or data.{own}), a path of the cluster's nodes",
    )


def _new_folder(job: JobFile) -> str:
    """Of this submission alone. That of an uploaded job is in the home folder of the cluster's
    user, for Ray removes the copy that it runs in."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", job.name).strip("-._")[:40] or "job"
    home = HERE if job.working_dir is None else Path("~")
    return str(home / "runs" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def _on_the_nodes(path: str, uploaded: Path | None) -> str:
    is_absolute = path.startswith(("/", "~", "$"))
    if uploaded is None:
        return path if is_absolute else str(HERE / path)
    if not is_absolute or Path(path).is_relative_to(uploaded):
        raise UserError(
            f"{OUTPUT_DIR} {path}: an uploaded job runs in a copy that Ray removes: give a path "
            "from the root of the cluster's nodes on, or leave it out"
        )
    return path


def _runtime_env(job: JobFile) -> dict[str, Any]:
    env = {key: value for key, value in job.runtime_env.items() if value is not None}
    env["env_vars"] = {**STOP_SECONDS, **env.get("env_vars", {})}
    if job.working_dir is None:
        env.pop("excludes", None)
        return env
    return {**env, "working_dir": str(job.working_dir)}
