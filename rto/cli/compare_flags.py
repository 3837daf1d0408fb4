"""The flags of `rto compare` that are its own."""

from __future__ import annotations

import argparse

from rto.cli.one_line_parser import OneLineParser, whole
from rto.errors import UserError


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="rto compare",
        description="Train several methods on the same data and budget, and compare them.",
        epilog="All other flags are those of rto train and rto fit, and hold for every method.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--algos",
        required=True,
        help="names, comma-separated; NAME:online, NAME+rto (with the token reward)",
    )
    parser.add_argument("--seeds", type=whole(1), default=3, help="runs per method")
    parser.add_argument(
        "--budget", type=whole(1), default=4096, help="sequences that each run trains on"
    )
    parser.add_argument("--prompts", required=True, help="prompts that all policies answer")
    parser.add_argument("--samples", type=whole(1), default=2, help="answers to each prompt")
    parser.add_argument("--judge", help="reward_func.py that judges; else the reward sources")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="NAME=A,B", help="settings to search"
    )
    parser.add_argument("--output_dir", help="default runs/compare-<date>")
    return parser


def axis(text: str) -> tuple[str, list[str]]:
    """``NAME=A,B`` -> the setting and its values.

    Raises:
        UserError: it is written in another way.
    """
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise UserError(f"--grid {text!r}: write NAME=VALUE,VALUE")
    return name, values.split(",")
