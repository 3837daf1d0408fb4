"""The flags of `rto compare` that are its own."""

from __future__ import annotations

import pytest

from rto.cli.compare_flags import axis, parser
from rto.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.seed=1", ("train.seed", ["1"])),
        ("algo.kl.init_coef=0.1,0.2", ("algo.kl.init_coef", ["0.1", "0.2"])),
        ("data.input_key=a=b", ("data.input_key", ["a=b"])),
    ],
)
def test_an_axis_is_a_setting_and_its_values(text: str, expected: tuple[str, list[str]]) -> None:
    assert axis(text) == expected


@pytest.mark.parametrize("text", ["", "train.seed", "=1,2", "train.seed="])
def test_an_axis_without_name_or_values_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--grid '{text}': write NAME=VALUE,VALUE"):
        axis(text)


def test_axes_add_up_and_other_flags_are_left_to_the_runs() -> None:
    needed = ["--algos", "ppo,rto", "--prompts", "p"]
    known, rest = parser().parse_known_args(
        [*needed, "--grid", "a=1", "--train.seed", "3", "--grid", "b=2"]
    )
    assert (known.grid, rest) == (["a=1", "b=2"], ["--train.seed", "3"])
    assert (known.seeds, known.budget, known.samples, known.judge) == (3, 4096, 2, None)


@pytest.mark.parametrize("flag", ["--seeds", "--budget", "--samples"])
def test_counts_are_one_or_more(flag: str) -> None:
    with pytest.raises(UserError, match=f"compare: argument {flag}: '0': a whole number from 1"):
        parser().parse_args(["--algos", "ppo", "--prompts", "p", flag, "0"])
