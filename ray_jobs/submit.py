"""Submit a run to a Ray cluster's job server.

    python ray_jobs/submit.py JOB.yaml [--address URL] [--follow] [--dry_run] [-- OVERRIDES...]
    python -m rto.shipped.ray_jobs.submit ray_jobs/quickstart_cpu.yaml      (installed by pip)

The overrides go to the end of the job's entrypoint, so `-- --train.max_steps 2` shortens a run.
The address is that of the dashboard; RAY_API_SERVER_ADDRESS, then http://127.0.0.1:8265 when not
given. A cluster with token authentication reads the token as every Ray client does: RAY_AUTH_MODE
=token with RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import os
import re
import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from rto.cli.main import parse
from rto.errors import UserError
from rto.resources import IS_CHECKOUT, ROOT, shipped

HERE = ROOT if IS_CHECKOUT else Path.cwd()
"""Where a job without a directory to upload runs: the checkout, or where a wheel's user stands."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
RUNTIME_KEYS = ("working_dir", "env_vars", "excludes", "pip")
RESOURCE_KEYS = ("num_cpus", "num_gpus")
SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """One job file. ``entrypoint`` is a shell line, or a list whose items are quoted."""

    name: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    resources: Mapping[str, float]

    @property
    def working_dir(self) -> Path | None:
        """The directory to upload, relative to the checkout (the wheel's example files
        where there is none); None runs where the submitter stands."""
        path = self.runtime_env.get("working_dir")
        return None if path is None else (ROOT / path).resolve()

    def command(self, overrides: Sequence[str]) -> str:
        """The shell line that the cluster runs.

        Without a directory to upload, it enters the submitter's folder and prefers the
        submitter's interpreter: right on one machine and on a shared file system.
        """
        line = " ".join([self.entrypoint, *map(shlex.quote, overrides)])
        if self.working_dir is not None:
            return line
        programs = shlex.quote(str(Path(sys.executable).parent))
        return f"cd {shlex.quote(str(HERE))} && export PATH={programs}:$PATH && {line}"

    def remote_env(self) -> dict[str, Any]:
        """What Ray calls runtime_env, with an absolute working_dir or none."""
        env = {key: value for key, value in self.runtime_env.items() if value is not None}
        if self.working_dir is None:
            env.pop("excludes", None)
            return env
        return {**env, "working_dir": str(self.working_dir)}


def load_job(path: Path) -> Job:
    """Read and check a job file.

    Raises:
        UserError: one line with the file, the key and the remedy.
    """
    path = Path(shipped(str(path)))
    if not path.is_file():
        raise UserError(f"{path}: no such job file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    known = [field.name for field in fields(Job)]
    content = _mapping(content, known, where=f"{path}")
    runtime_env = _mapping(content.get("runtime_env"), RUNTIME_KEYS, where=f"{path}: runtime_env")
    resources = _mapping(content.get("resources"), RESOURCE_KEYS, where=f"{path}: resources")
    entrypoint, name = content.get("entrypoint"), content.get("name")
    if not entrypoint or not isinstance(entrypoint, str | list):
        raise UserError(f"{path}: entrypoint is {entrypoint!r}: give a command line or a list")
    if not name or not isinstance(name, str):
        raise UserError(f"{path}: name is {name!r}: give the job a name")
    secret = next(filter(SECRET.search, runtime_env.get("env_vars") or {}), None)
    if secret is not None:
        raise UserError(
            f"{path}: runtime_env.env_vars.{secret}: Ray shows these values in its dashboard and "
            "logs: set secrets in the environment of the cluster's nodes"
        )
    line = entrypoint if isinstance(entrypoint, str) else shlex.join(map(str, entrypoint))
    return Job(name, line.strip(), runtime_env, resources)


def _mapping(value: object, known: Collection[str], *, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected keys {', '.join(known)}, got {value!r:.60}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
            raise UserError(f"{where}: unknown key {key}: {hint}")
    return value


def validate(job: Job, overrides: Sequence[str]) -> bool:
    """Check the run's flags and files here, before anything is sent; False: not an `rto` command.

    Raises:
        UserError: as `rto` itself would raise it.
    """
    program, *arguments = shlex.split(job.entrypoint)
    if program != "rto":
        return False
    with contextlib.chdir(job.working_dir or HERE):
        parse([*arguments, *overrides])
    return True


def submit(client: JobSubmissionClient, job: Job, overrides: Sequence[str]) -> str:
    """Send the job; returns its id."""
    return client.submit_job(
        entrypoint=job.command(overrides),
        runtime_env=job.remote_env(),
        metadata={"name": job.name},
        entrypoint_num_cpus=job.resources.get("num_cpus"),
        entrypoint_num_gpus=job.resources.get("num_gpus"),
    )


async def follow(client: JobSubmissionClient, job_id: str) -> JobStatus:
    """Print the job's log as it grows; returns how the job ended."""
    async for text in client.tail_job_logs(job_id):
        print(text, end="", flush=True)
    while not (status := client.get_job_status(job_id)).is_terminal():
        time.sleep(0.5)
    return status


def connect(address: str) -> JobSubmissionClient:
    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise UserError(
            f"no Ray job server at {address}: start one with `ray start --head`, or give --address"
        ) from error
    except AuthenticationError as error:
        raise UserError(f"{address} refused the token: {' '.join(str(error).split())}") from error


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    job = load_job(options.job)
    checked = "checked" if validate(job, overrides) else "not an rto command: not checked"
    print(f"job       {job.name} ({checked})")
    print(f"command   {job.command(overrides)}")
    print(f"env       {job.remote_env()}")
    print(f"resources {dict(job.resources)}")
    print(f"address   {options.address}")
    if options.dry_run:
        return 0
    client = connect(options.address)
    job_id = submit(client, job, overrides)
    print(f"submitted {job_id}")
    print(f"follow    ray job logs -f {job_id} --address {options.address}")
    print(f"stop      ray job stop {job_id} --address {options.address}", flush=True)
    if not options.follow:
        return 0
    status = asyncio.run(follow(client, job_id))
    print(f"{job_id} {status.value}")
    return 0 if status == JobStatus.SUCCEEDED else 1


def main(argv: Sequence[str]) -> int:
    own, overrides = list(argv), []
    if "--" in own:
        split = own.index("--")
        own, overrides = own[:split], own[split + 1 :]
    parser = argparse.ArgumentParser(prog="submit.py", allow_abbrev=False)
    parser.add_argument("job", type=Path, help="job file (YAML)")
    address = os.environ.get("RAY_API_SERVER_ADDRESS", DEFAULT_ADDRESS)
    parser.add_argument("--address", default=address, help=f"job server (default {address})")
    parser.add_argument("--follow", action="store_true", help="print the log until the job ends")
    parser.add_argument("--dry_run", action="store_true", help="check and print, submit nothing")
    parser.usage = "%(prog)s JOB.yaml [--address URL] [--follow] [--dry_run] [-- OVERRIDES...]"
    try:
        return run(parser.parse_args(own), overrides)
    except UserError as error:
        print(f"submit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nsubmit: no longer following; the job goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
