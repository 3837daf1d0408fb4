"""The guard around foreign code: whatever comes out of it is one line of ours."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest

from rto.errors import RewardProtocolError, RtoError, UserError, foreign, told


def _leave() -> None:
    sys.exit(0)


def _recurse() -> None:
    _recurse()


def _fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "call",
    [
        lambda: _fail(KeyError("score")),
        lambda: _fail(StopIteration()),
        lambda: _fail(RuntimeError("first line\nsecond line")),
        lambda: _fail(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")),
        _leave,
        _recurse,
    ],
)
def test_everything_that_foreign_code_raises_is_one_line(call) -> None:
    with (
        pytest.raises(RewardProtocolError) as caught,
        foreign("rf.py: reward_func fails", "mend it", error=RewardProtocolError),
    ):
        call()
    text = str(caught.value)
    assert text.startswith("rf.py: reward_func fails: ")
    assert text.endswith("; mend it")
    assert "\n" not in text


def test_an_error_of_ours_keeps_its_words_and_a_key_press_its_meaning() -> None:
    with pytest.raises(UserError, match="^row 3 is empty$"), foreign("outer"):
        raise UserError("row 3 is empty")
    with pytest.raises(KeyboardInterrupt), foreign("outer"):
        raise KeyboardInterrupt


def test_a_generator_that_is_given_up_ends_quietly() -> None:
    def guarded() -> Generator[int, None, None]:
        with foreign("reading"):
            yield 1

    numbers = guarded()
    assert next(numbers) == 1
    numbers.close()


def test_what_an_exception_says() -> None:
    assert told(ValueError("a\tb\nc")) == "ValueError: a b"
    assert told(ValueError("field 'a':\n    is no number\nc")) == (
        "ValueError: field 'a': is no number"
    )
    assert told(StopIteration()) == "StopIteration"
    assert told(ValueError("\n  \nsecond")) == "ValueError: second"
    assert len(told(ValueError("x" * 10_000))) < 400


def test_every_error_of_ours_has_an_exit_code_of_its_own_kind() -> None:
    assert UserError("x").exit_code == 2
    assert issubclass(UserError, RtoError)
    assert issubclass(UserError, ValueError)


def test_a_guarded_generator_may_be_left_early() -> None:
    def rows():
        with foreign("cannot read"):
            yield from range(3)

    left = rows()
    assert next(left) == 0
    left.close()


class _Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


def test_an_exception_that_cannot_tell_itself_is_told_by_its_type() -> None:
    with pytest.raises(UserError, match="_Mute: <exception str.. failed>"), foreign("x"):
        raise _Mute


def test_what_an_exception_tells_holds_no_secret() -> None:
    assert told(ValueError("api_key=hunter2")) == "ValueError: api_key=***"
