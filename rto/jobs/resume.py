"""Go on with a job that has ended: the same command, the same run folder, its newest checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rto.errors import UserError
from rto.jobs.job_file import check_overrides
from rto.jobs.package import uri
from rto.jobs.server import answers, command, connect, find, parser, run_script
from rto.jobs.standing import newest_checkpoint, reachable
from rto.jobs.submission import Submission, check_run, read_submission
from rto.jobs.submit import followed, send, tell_sent
from rto.tracking.run_folder import check_going_on


def resumed(client: JobSubmissionClient, job: JobDetails, overrides: Sequence[str]) -> Submission:
    """What to submit to go on with a job; prints what it will go on from.

    Raises:
        UserError: it has not ended, or has nothing left to do; another job is at work in its run
            folder; what it was made of is not kept; or it ended before its first checkpoint.
    """
    job_id = str(job.submission_id)
    what = read_submission(job.metadata)
    if what is None:
        raise UserError(
            f"{job_id} was not submitted by {command('submit')}, which keeps what a job was made "
            "of: submit it anew with --ckpt.load_enable true and its --ckpt.output_dir"
        )
    if what.run_folder is None:
        raise UserError(f"{job_id} is no training command of rto, which alone have checkpoints")
    if not job.status.is_terminal():
        raise UserError(
            f"{job_id} is {job.status.value}: it has not ended, stop it first with "
            f"{command('stop', job_id)}"
        )
    if job.status == JobStatus.SUCCEEDED and not overrides:
        raise UserError(
            f"{job_id} has SUCCEEDED and has nothing left to do: give it more, as in -- "
            "--train.max_steps N"
        )
    _refuse_second(client, what.run_folder)
    again = what.again(overrides)
    _check_files(again, job)
    check_overrides(overrides)
    check_run(again.line, Path(again.folder or again.runtime_env["working_dir"]))
    _tell_checkpoint(what.run_folder)
    return again


def _refuse_second(client: JobSubmissionClient, run_folder: str) -> None:
    """Of two jobs in one run folder the second would fail when it starts."""
    for other in client.list_jobs():
        if other.status.is_terminal() or other.submission_id is None:
            continue
        if (other.metadata or {}).get("run_folder") == run_folder:
            raise UserError(
                f"{other.submission_id} is {other.status.value} and at work in {run_folder}: stop "
                f"it first with {command('stop', other.submission_id)}"
            )


def _check_files(again: Submission, job: JobDetails) -> None:
    """Ray removes what was uploaded when a job has ended, so it is uploaded once more."""
    place = Path(again.folder or again.runtime_env["working_dir"])
    if not place.is_dir():
        raise UserError(f"{place}: the job's files are not here: resume it where it was submitted")
    before = (job.runtime_env or {}).get("working_dir")
    if again.folder is None and before != uri(place, again.runtime_env.get("excludes") or []):
        print(f"the files of {place} differ from those that the job was submitted with")


def _tell_checkpoint(run_folder: str) -> None:
    """
    Raises:
        UserError: the job ended before its first checkpoint, and behind its first metrics.
    """
    place = reachable(run_folder)
    if place is None:
        print(
            f"{run_folder} is not on this machine: the job's log says what checkpoint it goes on "
            "from"
        )
        return
    starts = check_going_on(place)
    print(starts or f"goes on from {newest_checkpoint(place)}")


def _script(options: argparse.Namespace, overrides: list[str]) -> int:
    client = connect(options.address)
    with answers(options.address):
        again = resumed(client, find(client, options.job), overrides)
        print(f"command   {again.command}")
        job_id = send(client, again)
        tell_sent(job_id, options.address)
        return followed(client, job_id) if options.follow else 0


def main(argv: Sequence[str]) -> int:
    options = parser("resume.py JOB [--follow] [--address URL] [-- OVERRIDES...]", overrides=True)
    options.add_argument("job", metavar="JOB", help="id of a job that has ended")
    options.add_argument("--follow", action="store_true", help="print the log until the job ends")
    return run_script("resume", options, _script, argv, left=": a job that was sent goes on")
