"""argparse with errors of ours: one line with the command, the argument and what is near to it."""

from __future__ import annotations

import argparse

import pytest

from rto.cli.one_line_parser import OneLineParser, named, whole
from rto.errors import UserError


def parser(prog: str = "rto tool") -> OneLineParser:
    made = OneLineParser(prog=prog, allow_abbrev=False)
    made.add_argument("--samples", type=whole(1, 99), default=1)
    made.add_argument("--path", type=named)
    inner = made.add_subparsers(dest="command").add_parser("inner", allow_abbrev=False)
    inner.add_argument("--deeper")
    return made


def refused(argv: list[str], prog: str = "rto tool") -> str:
    with pytest.raises(UserError) as caught:
        parser(prog).parse_args(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_right_is_taken() -> None:
    found = parser().parse_args(["--samples", "99", "--path", " x", "inner", "--deeper", "1"])
    assert (found.samples, found.path, found.deeper) == (99, " x", "1")


@pytest.mark.parametrize("text", ["0", "100", "1.0", "1e1", "", "٣", "1" * 13, " 1"])
def test_a_whole_number_within_bounds(text: str) -> None:
    said = refused(["--samples", text])
    assert said == f"tool: argument --samples: {text!r}: a whole number from 1 to 99"


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_a_variable_that_is_not_set_names_no_place(text: str) -> None:
    assert refused(["--path", text]).endswith(f"{text!r}: names nothing")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--sampels"], "tool: unknown argument --sampels: did you mean --samples?"),
        (["inner", "--deeepr", "1"], "tool: unknown argument --deeepr: did you mean --deeper?"),
        (["--zzzzzz"], "tool: unknown argument --zzzzzz"),
    ],
)
def test_an_unknown_argument_is_told_with_the_nearest_of_the_program_and_its_commands(
    argv: list[str], said: str
) -> None:
    assert refused(argv) == said


def test_a_program_of_its_own_says_its_name_itself() -> None:
    assert refused(["--samples", "0"], prog="rto ").startswith("argument --samples: ")


def test_a_far_argument_may_come_with_a_hint() -> None:
    class Hinting(OneLineParser):
        unknown_hint = ", see --help"

    with pytest.raises(UserError, match="unknown argument --zzzzzz, see --help$"):
        Hinting(prog="rto x").parse_args(["--zzzzzz"])


def test_types_are_errors_of_argparse_for_other_programs() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="names nothing"):
        named("")
