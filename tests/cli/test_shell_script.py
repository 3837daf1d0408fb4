"""A shell script is read and never run: its lines, words and variables."""

from __future__ import annotations

import re

import pytest

from rto.cli.shell_script import Call, commands, find_calls, split, statements
from rto.errors import UserError

PROGRAM = re.compile(r"(^|/)train\.py$")


def calls(*lines: str) -> list[Call]:
    return find_calls("\n".join(lines), PROGRAM)


def words(*lines: str) -> list[str]:
    (call,) = calls(*lines)
    return list(call.words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a \\\n  b\nc", ["a  b", "c"]),
        ("\n# a \\\nb\n\n", ["b"]),
        ("A=(\n 1\n 2 )\nb", ["A=( 1 2 )", "b"]),
        ("a \\", ["a"]),
    ],
)
def test_continued_lines_are_one_and_comments_none(text: str, expected: list[str]) -> None:
    assert list(statements(text)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a && b || c; d | e", ["a", "b", "c", "d", "e"]),
        ("if a; then b; else c; fi", ["a", "b", "c", "fi"]),
        ("a ';' \"&&\" b", ["a ';' \"&&\" b"]),
        ("a b#c # d; e", ["a b#c"]),
        ("A=(1; 2)", ["A=(1; 2)"]),
        ("while ! time a", ["a"]),
    ],
)
def test_a_line_is_cut_where_a_shell_would_cut_it(line: str, expected: list[str]) -> None:
    assert list(commands(line)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a 'b c' \"d e\"", ["a", "b c", "d e"]),
        ("a > log", ["a"]),
        ("a 2>&1", ["a"]),
        ("a 2 > log", ["a", "2"]),
        ("a & b", ["a"]),
        ("a $B", ["a", "$B"]),
    ],
)
def test_words_end_where_output_is_sent_elsewhere(line: str, expected: list[str]) -> None:
    assert split(line) == expected


def test_a_quotation_mark_without_its_partner_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot read the script's line") as caught:
        split("a 'b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (["A=1", "train.py $A ${A}"], ["1", "1"]),
        (["A='b c'", 'train.py "$A"'], ["b c"]),
        (["A=x", "A+=y", "train.py $A"], ["xy"]),
        (["A=(1 2)", "A+=(3)", 'train.py "${A[@]}"'], ["1", "2", "3"]),
        (["A=(1 '2 3')", "train.py ${A[1]} ${A[9]}"], ["2", "3"]),
        (["A=1", "B=$A", "C=$B", "train.py $C"], ["1"]),
        (["local A=1", "readonly B=2", "train.py $A $B"], ["1", "2"]),
        (["train.py $A", "A=1"], ["$A"]),
    ],
)
def test_variables_have_the_value_that_they_had_at_the_call(
    script: list[str], expected: list[str]
) -> None:
    assert words(*script) == ["train.py", *expected]


@pytest.mark.parametrize("value", ["$(date)", "`date`", "$((1 + 2))"])
def test_what_only_a_shell_can_tell_leaves_its_variable_unset(value: str) -> None:
    (call,) = calls("A=before", f"A={value}", "train.py $A $B")
    assert call.unset == ("A", "B")


def test_a_call_begins_with_the_program_whatever_starts_it() -> None:
    assert words("CUDA=1 nohup python -u /x/train.py --a") == ["/x/train.py", "--a"]
    assert [call.words[-1] for call in calls("train.py 1", "train.py 2; train.py 3")] == [
        "1", "2", "3",
    ]  # fmt: skip
    assert calls("train.pyc", "echo 'my train.py'") == []
    assert calls("A=train.py", "python $A 1")[0].words == ("train.py", "1")
