"""`rto serve-reward`: a reward model or a reward_func.py behind HTTP."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rto.cli.one_line_parser import OneLineParser, whole
from rto.errors import UserError
from rto.scoring.listen import PORTS, open_listener
from rto.tracking.quiet import escape_control

MAX_BATCH = 64

DESCRIPTION = """\
Answer POST / and /get_reward {"query", "prompts", "labels"} with {"rewards"}; GET /health.
Where the variable of --token_env is set, only requests with that bearer token are answered; a host
other than loopback needs it. Where 64 requests wait already, the next one is told to come later."""


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted."""
    options = parse(argv)
    if options.func_path is not None and not Path(options.func_path).expanduser().is_file():
        raise UserError(f"serve-reward: --func_path {options.func_path}: no such file")
    listener = open_listener(options.host, options.port, token_env=options.token_env)
    with listener.socket:
        from rto.scoring.server import serve

        serve(
            reward_model=options.reward_model,
            func_path=options.func_path,
            listener=listener,
            max_batch=options.max_batch,
            max_len=options.max_len,
            workers=options.workers,
            timeout=options.timeout,
            printed=lambda text: print(escape_control(text), file=sys.stderr, flush=True),
        )
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The source to serve, where, and how many texts at once.

    Raises:
        UserError: one line with the flag and the remedy.
    """
    options = _parser().parse_args(argv)
    if options.reward_model is None and options.func_path is None:
        raise UserError("serve-reward: nothing to serve: give --reward_model or --func_path")
    if options.workers is not None and options.func_path is None:
        raise UserError("serve-reward: --workers is for --func_path: a model is loaded once")
    for name in ("max_len", "max_batch"):
        if vars(options)[name] is not None and options.reward_model is None:
            raise UserError(
                f"serve-reward: --{name} is for --reward_model: a function reads all texts as "
                "they come"
            )
    options.max_batch = options.max_batch or MAX_BATCH
    options.workers = options.workers or 1
    return options


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="rto serve-reward",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--reward_model", metavar="DIR", help="sequence-classification checkpoint")
    source.add_argument("--func_path", metavar="FILE", help="Python file with reward_func")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=whole(1, PORTS[-1]), default=5000, help="port to listen on (%(default)s)"
    )
    parser.add_argument(
        "--token_env",
        metavar="NAME",
        default="RTO_REWARD_TOKEN",
        help="environment variable that holds the bearer token (%(default)s)",
    )
    parser.add_argument(
        "--max_batch",
        type=whole(1),
        metavar="N",
        help=f"texts per forward of the model ({MAX_BATCH})",
    )
    parser.add_argument(
        "--max_len",
        type=whole(2),
        metavar="N",
        help="tokens of the longest text, as data.max_len in training (what the model's "
        "config.json says of its training)",
    )
    parser.add_argument(
        "--workers",
        type=whole(1, 1024),
        metavar="N",
        help="processes of the function, each with a request at a time (1)",
    )
    parser.add_argument(
        "--timeout",
        type=whole(1, 10_000_000),
        metavar="S",
        default=60,
        help="seconds that a request may wait for its turn, and the function take for it "
        "(%(default)s)",
    )
    return parser
