"""`rto COMMAND`: one program. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from rto import __version__
from rto.errors import RtoError, Terminated, UserError, bad_path, nearest
from rto.secrets import hide
from rto.text import one_line
from rto.tracking.quiet import quiet

LINGER_SECONDS = 5.0
"""How long what is left of a command that failed may take to end."""


@dataclass(frozen=True)
class Command:
    """A command: its one-line help and the function that runs it, as ``module:function``."""

    help: str
    target: str


COMMANDS = {
    "sft": Command("fine-tune a model on demonstrations", "rto.cli.run:sft"),
    "reward": Command("train a pairwise (Bradley-Terry) reward model", "rto.cli.run:reward"),
    "dpo": Command("train a policy on preference pairs", "rto.cli.run:dpo"),
    "fit": Command("offline training on stored feedback: --algo rpo, ...", "rto.cli.run:fit"),
    "train": Command("online training: --algo ppo, rto, ...", "rto.cli.run:train"),
    "plan": Command(
        "whether a run fits a machine, and what would make it fit", "rto.cli.plan:main"
    ),
    "compare": Command(
        "several methods on the same data and budget, with intervals", "rto.cli.compare:main"
    ),
    "generate": Command("sample responses from a run or a model", "rto.cli.generate:main"),
    "doctor": Command(
        "what is installed, what computes, what others can reach", "rto.cli.doctor:main"
    ),
    "runs": Command("list run folders: state, method, last figures", "rto.cli.runs:main"),
    "rollouts": Command(
        "print the responses that a run drew, with scores", "rto.cli.rollouts:main"
    ),
    "report": Command("run folders as one HTML file", "rto.cli.report:main"),
    "eval": Command(
        "metrics and win rate of a model's responses, with intervals", "rto.cli.eval:main"
    ),
    "data": Command("check a data set of feedback, or convert it", "rto.cli.data:main"),
    "serve-reward": Command("serve a reward model or function over HTTP", "rto.cli.serve:main"),
    "convert-flags": Command(
        "the command here for a training script of OpenRLHF or TRL", "rto.cli.convert:main"
    ),
    "methods": Command("list the methods that --algo knows", "rto.cli.methods:main"),
    "quickstart": Command(
        "the whole recipe on this machine, minutes", "rto.quickstart.recipe:main"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except RtoError as error:
        print(f"rto: {hide(one_line(str(error)))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Who read it (`| head`) has left; nothing may be written at the interpreter's exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None:
            raise
        print(f"rto: {bad_path(error)}", file=sys.stderr)
        return UserError.exit_code
    except KeyboardInterrupt as error:
        print(f"rto: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130
    except Terminated as error:
        print(f"rto: {error}", file=sys.stderr)
        return error.exit_code


def program() -> NoReturn:
    """`rto` in a shell. A thread that still waits, for a reward server's answer, say, does not keep
    a process that has failed."""
    code = main()
    sys.stdout.flush()
    if code:
        timer = threading.Timer(LINGER_SECONDS, os._exit, [code])
        timer.daemon = True
        timer.start()
    sys.exit(code)


def parse(argv: Sequence[str]) -> None:
    """Check the arguments of a run, files included, without starting anything.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    from rto.sections.parse import parse_run

    command, rest = _split(list(argv))
    if command in ("sft", "reward", "dpo", "fit", "train"):
        parse_run(command, rest)


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("--version", "-V"):
        print(f"rto {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    quiet(None)  # Libraries warn at import, before a command has a folder for that.
    command, rest = _split(arguments)
    module, _, function = COMMANDS[command].target.partition(":")
    return getattr(importlib.import_module(module), function)(rest)


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    command, *rest = arguments or [""]
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS) or f"one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {command!r}: {hint}")
    return command, rest


def usage() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rto COMMAND [--config FILE.yaml] [--section.name value ...]",
            "",
            "Align language models from any kind of feedback, on Ray, vLLM and DeepSpeed.",
            "",
            *lines,
            "",
            "rto COMMAND --help lists what a command reads; --help SECTION, one section in full.",
            "--dry_run prints the plan of a command; rto --version, the version.",
        ]
    )


if __name__ == "__main__":
    program()
