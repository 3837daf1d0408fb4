"""How far a judge's endpoint has come: where a line is printed, and what it says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rto.evaluation import progress
from rto.evaluation.endpoint import Usage
from rto.evaluation.progress import EndpointProgress

USAGE = Usage(prompt_tokens=12_000, completion_tokens=345, num_asked=3, num_kept=2)


class Clock:
    """Time passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def printed(on: Console) -> list[str]:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("usage", "prices", "expected"),
    [
        (USAGE, None, "j: 3 of 9 judgements (2 from an earlier run), 12,000 tokens read, 345 "
         "written"),
        (Usage(1_000_000, 500_000), (2.0, 4.0), "j: 3 of 9 judgements, 1,000,000 tokens read, "
         "500,000 written, cost 4.0000"),
    ],
)  # fmt: skip
def test_a_line_says_what_was_asked_kept_and_paid(
    usage: Usage, prices: tuple[float, float] | None, expected: str
) -> None:
    assert EndpointProgress("j", console(), prices).line(3, 9, usage) == expected


def test_where_no_terminal_is_a_line_comes_every_ten_seconds_and_at_the_end(clock: Clock) -> None:
    on = console()
    with EndpointProgress("[j]", on, None) as progress:
        for done, now in enumerate((5.0, 10.0, 15.0, 19.9, 20.0, 21.0)):
            clock.now = now
            progress(done, 6, Usage())
    assert [line.split(" judgements")[0] for line in printed(on)] == [
        "[j]: 1 of 6", "[j]: 4 of 6", "[j]: 5 of 6",
    ]  # fmt: skip


def test_nothing_asked_is_nothing_said(clock: Clock) -> None:
    on = console()
    with EndpointProgress("j", on, None):
        pass
    assert printed(on) == []
