"""Stop a job, wait until it has ended, and say what stands of it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rto.cli.one_line_parser import whole
from rto.errors import RtoError
from rto.jobs.server import answers, command, connect, find, parser, run_script
from rto.jobs.standing import standing
from rto.jobs.status import refuse_flags
from rto.jobs.submission import read_submission
from rto.jobs.submit import LOOK

MOST_SECONDS = 120
"""How long a job that was told to stop is waited for, unless --timeout says otherwise."""


def stopped(client: JobSubmissionClient, job_id: str, seconds: float) -> JobDetails:
    """Stop a job and wait until all of its processes have ended.

    Raises:
        RtoError: it has not ended after ``seconds``.
    """
    client.stop_job(job_id)
    deadline = time.monotonic() + seconds
    while not (job := find(client, job_id)).status.is_terminal():
        if time.monotonic() >= deadline:
            raise RtoError(
                f"{job_id} is {job.status.value} {seconds:g} s after it was told to stop: wait for "
                f"it with {command('status', job_id)}"
            )
        time.sleep(LOOK)
    return job


def _stop(options: argparse.Namespace, overrides: list[str]) -> int:
    refuse_flags(overrides)
    client = connect(options.address)
    with answers(options.address):
        job = find(client, options.job)
        before = job.status
        if not before.is_terminal():
            job = stopped(client, options.job, options.timeout)
    ended = "had ended before" if before.is_terminal() else "all its processes have ended"
    print(f"{options.job} {job.status.value} ({ended})")
    what = read_submission(job.metadata)
    print("\n".join(standing(None if what is None else what.run_folder)))
    if what is not None and what.run_folder is not None and job.status != JobStatus.SUCCEEDED:
        print(f"go on with  {command('resume', options.job, '--address', options.address)}")
    return 0


def main(argv: Sequence[str]) -> int:
    options = parser("stop.py JOB [--timeout SECONDS] [--address URL]")
    options.add_argument("job", metavar="JOB", help="id of a job")
    options.add_argument("--timeout", type=whole(1), default=MOST_SECONDS, metavar="SECONDS")
    return run_script("stop", options, _stop, argv, left=": the job was told to stop")
