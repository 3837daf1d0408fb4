"""The jobs of a cluster: all of them in a table, or one in detail; and a job's log."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from ray.job_submission import JobDetails
from rich.console import Console

from rto.errors import UserError
from rto.jobs.server import answers, connect, find, parser, run_script
from rto.jobs.standing import figures, reachable, standing
from rto.jobs.submission import read_submission
from rto.jobs.submit import followed
from rto.secrets import hide
from rto.text import one_line
from rto.tracking.console import table

WIDTH = 160
"""Columns of the table where nobody's terminal sets them."""


def row(job: JobDetails) -> dict[str, str]:
    """A job in one line of the table."""
    folder = (job.metadata or {}).get("run_folder")
    place = reachable(folder)
    return {
        "job": str(job.submission_id),
        "name": name(job),
        "state": job.status.value,
        "since": since(job),
        "run folder": hide(folder or ""),
        "last figures": "" if place is None else figures(place),
    }


def name(job: JobDetails) -> str:
    return hide(one_line((job.metadata or {}).get("name", ""), 60))


def since(job: JobDetails) -> str:
    """When the job came into its state: its end, else its start."""
    milliseconds = job.end_time or job.start_time
    if not milliseconds:
        return ""
    return time.strftime("%F %T", time.localtime(milliseconds / 1000))


def details(job: JobDetails) -> list[str]:
    """A job in full, one line each."""
    lines = [
        f"job         {job.submission_id}",
        f"name        {name(job)}",
        f"state       {job.status.value} since {since(job)}",
        f"said        {hide(one_line(job.message or '', 300))}",
        f"command     {hide(job.entrypoint)}",
    ]
    if job.driver_exit_code is not None:
        lines.append(f"exit code   {job.driver_exit_code}")
    what = read_submission(job.metadata)
    return [*lines, *standing(None if what is None else what.run_folder)]


def _status(options: argparse.Namespace, overrides: list[str]) -> int:
    refuse_flags(overrides)
    client = connect(options.address)
    with answers(options.address):
        if options.job is not None:
            print("\n".join(details(find(client, options.job))))
            return 0
        jobs = [job for job in client.list_jobs() if job.submission_id is not None]
    if not jobs:
        print("no jobs")
        return 0
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    jobs.sort(key=lambda job: -(job.start_time or 0))
    console.print(table([row(job) for job in jobs]))
    return 0


def refuse_flags(overrides: Sequence[str]) -> None:
    if overrides:
        raise UserError(f"nothing stands behind --, got {one_line(hide(' '.join(overrides)), 60)}")


def main(argv: Sequence[str]) -> int:
    options = parser("status.py [JOB] [--address URL]")
    options.add_argument("job", nargs="?", metavar="JOB", help="id of a job, for it in full")
    return run_script("status", options, _status, argv)


def _logs(options: argparse.Namespace, overrides: list[str]) -> int:
    refuse_flags(overrides)
    client = connect(options.address)
    with answers(options.address):
        job = find(client, options.job)
        if options.follow:
            return followed(client, str(job.submission_id))
        print(client.get_job_logs(options.job), end="")
        return 0


def logs(argv: Sequence[str]) -> int:
    options = parser("logs.py JOB [--follow] [--address URL]")
    options.add_argument("job", metavar="JOB", help="id of a job")
    options.add_argument("--follow", action="store_true", help="print until the job ends")
    return run_script("logs", options, _logs, argv, left=": the job goes on")
