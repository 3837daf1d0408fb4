"""A cluster's job server: how it is reached, what it answers, and the scripts around that."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from rto.cli.one_line_parser import OneLineParser
from rto.errors import RtoError, UserError, bad_path
from rto.resources import IS_CHECKOUT
from rto.secrets import hide, shown_url
from rto.text import one_line

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
Script = Callable[[argparse.Namespace, list[str]], int]


def connect(address: str) -> JobSubmissionClient:
    """
    Raises:
        UserError: nothing answers there, it is no job server, or it refuses the token.
    """
    with answers(address):
        return JobSubmissionClient(address)


@contextlib.contextmanager
def answers(address: str) -> Iterator[None]:
    """Whatever the server at ``address`` refuses inside is a user's error of one line."""
    where = shown_url(address)
    try:
        yield
    except RtoError:
        raise
    except AuthenticationError as error:
        said = hide(one_line(str(error)))
        raise UserError(f"{where} refused the token: {said}") from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise UserError(
            f"no Ray job server at {where}: start one with `ray start --head`, or give --address"
        ) from error
    except RuntimeError as error:
        said = hide(one_line(str(error), 300))
        raise UserError(f"{where} refused the request: {said}") from error


def find(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """What the server knows of a job.

    Raises:
        UserError: there is no such job.
    """
    try:
        return client.get_job_info(job_id)
    except RuntimeError as error:
        if "404" not in str(error):
            raise
        raise UserError(
            f"no job {one_line(ascii(job_id), 60)}: {command('status')} lists those that there are"
        ) from error


def command(script: str, *words: str) -> str:
    """How one of these scripts is called: of the checkout, or of the wheel's copies."""
    program = f"ray_jobs/{script}.py" if IS_CHECKOUT else f"-m rto.shipped.ray_jobs.{script}"
    return " ".join(["python", program, *words])


def parser(usage: str, *, overrides: bool = False) -> OneLineParser:
    """The parser of a script, with the server's address."""
    made = OneLineParser(prog="", usage=usage, allow_abbrev=False)
    if overrides:
        made.unknown_hint = ": flags of the run stand behind --"
    address = os.environ.get("RAY_API_SERVER_ADDRESS", DEFAULT_ADDRESS)
    made.add_argument("--address", default=address, help=f"job server (default {address})")
    return made


def run_script(
    name: str, options: OneLineParser, script: Script, argv: Sequence[str], *, left: str = ""
) -> int:
    """Run a script; a user's mistake is one line on stderr and exit code 2.

    Args:
        left: what to say of a job that goes on when the user interrupts the script.
    """
    own, overrides = list(argv), []
    if "--" in own:
        split = own.index("--")
        own, overrides = own[:split], own[split + 1 :]
    try:
        return script(options.parse_args(own), overrides)
    except RtoError as error:
        print(f"{name}: {hide(one_line(str(error)))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{name}: {bad_path(error)}", file=sys.stderr)
        return UserError.exit_code
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted{left}", file=sys.stderr)
        return 130
