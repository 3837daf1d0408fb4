"""Submit a job file, and follow a job."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from rto.jobs.job_file import JobFile, load_job
from rto.jobs.package import check, mib, package
from rto.jobs.server import answers, command, connect, parser, run_script
from rto.jobs.submission import JobRun, Submission, is_rto, submission
from rto.secrets import shown_url

LOOK = 0.5
"""Seconds between two questions for a job's state."""
NOT_YET = "No available agent"
"""What a job server says until the agent of its head node answers."""
START_SECONDS = 60
"""How long that may take."""


def send(client: JobSubmissionClient, what: Submission) -> str:
    """Send a job; returns its id. A head that has just started is waited for."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return client.submit_job(
                entrypoint=what.command,
                runtime_env=dict(what.runtime_env),
                metadata=what.metadata(),
                entrypoint_num_cpus=what.resources.get("num_cpus"),
                entrypoint_num_gpus=what.resources.get("num_gpus"),
            )
        except RuntimeError as error:
            if NOT_YET not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(LOOK)


async def follow(client: JobSubmissionClient, job_id: str) -> JobStatus:
    """Print the job's log as it grows; returns how the job ended."""
    async for text in client.tail_job_logs(job_id):
        print(text, end="", flush=True)
    while not (status := client.get_job_status(job_id)).is_terminal():
        time.sleep(LOOK)
    return status


def followed(client: JobSubmissionClient, job_id: str) -> int:
    """Follow a job to its end; the exit code says whether it succeeded."""
    status = asyncio.run(follow(client, job_id))
    print(f"{job_id} {status.value}")
    return 0 if status == JobStatus.SUCCEEDED else 1


def tell_sent(job_id: str, address: str) -> None:
    print(f"submitted {job_id}")
    for word in ("status", "logs", "stop", "resume"):
        print(f"{word:<9} {command(word, job_id, '--address', address)}", flush=True)


def tell_package(job: JobFile) -> None:
    """Say what would be uploaded.

    Raises:
        UserError: it is too large, or holds a secret.
    """
    if job.working_dir is None:
        return
    found = package(job.working_dir, job.runtime_env.get("excludes") or [])
    print(f"package   {mib(found.size)}, {len(found.files)} files of {found.folder}; the largest:")
    for name, size in found.largest:
        print(f"          {mib(size):>12}  {name}")
    check(found)


def _tell_checkpoints(run: JobRun | None) -> None:
    if run is not None and run.config.ckpt.save_steps < 1:
        print(
            "save      at the end alone: a job that ends before cannot be resumed (set "
            "--ckpt.save_steps)"
        )


def _script(options: argparse.Namespace, overrides: list[str]) -> int:
    job = load_job(options.job)
    what, run = submission(job, overrides)
    checked = "checked" if is_rto(what.line) else "not an rto command: not checked"
    print(f"job       {job.name} ({checked})")
    print(f"command   {what.command}")
    print(f"env       {dict(what.runtime_env)}")
    print(f"resources {dict(job.resources)}")
    if what.run_folder is not None:
        print(f"runs in   {what.run_folder}")
    _tell_checkpoints(run)
    tell_package(job)
    print(f"address   {shown_url(options.address)}")
    if options.dry_run:
        return 0
    client = connect(options.address)
    with answers(options.address):
        job_id = send(client, what)
        tell_sent(job_id, options.address)
        return followed(client, job_id) if options.follow else 0


def main(argv: Sequence[str]) -> int:
    usage = "submit.py JOB.yaml [--address URL] [--follow] [--dry_run] [-- OVERRIDES...]"
    options = parser(usage, overrides=True)
    options.add_argument("job", type=Path, help="job file (YAML)")
    options.add_argument("--follow", action="store_true", help="print the log until the job ends")
    options.add_argument("--dry_run", action="store_true", help="check and print, submit nothing")
    return run_script("submit", options, _script, argv, left=": a job that was sent goes on")
