from __future__ import annotations

import io

import pytest
from rich.console import Console

from rto.tracking.console import LiveConsole, duration, figure, table


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(width: int = 200) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=False, width=width), stream


def test_without_a_terminal_lines_come_first_periodically_and_last() -> None:
    clock = Clock()
    console, stream = plain()
    with LiveConsole("RTO", total=20, seconds=10, console=console, clock=clock) as live:
        for iteration in range(20):
            clock.now += 3
            live.log(iteration, {"reward/mean": 0.5})
    shown = [line.split()[2] for line in stream.getvalue().splitlines()]
    assert shown == ["1/20", "5/20", "9/20", "13/20", "17/20", "20/20"]


def test_the_line_has_the_figures_that_exist_and_the_time_left() -> None:
    clock = Clock()
    console, stream = plain()
    columns = {"reward": "reward/mean", "KL": "kl/mean"}
    live = LiveConsole("RTO", total=4, console=console, columns=columns, clock=clock)
    clock.now = 30
    live.log(0, {"reward/mean": 1.25, "x/y": 3.0})
    assert stream.getvalue() == "RTO: iteration 1/4  reward 1.250  left 1:30\n"


def test_the_pace_of_a_resumed_run_ignores_what_was_done_before() -> None:
    clock = Clock()
    console, stream = plain()
    live = LiveConsole("RTO", total=10, first=8, console=console, clock=clock)
    clock.now = 60
    live.log(8, {})
    assert stream.getvalue().endswith("9/10  left 1:00\n")


def test_the_pace_counts_from_where_start_up_ended() -> None:
    clock = Clock()
    console, stream = plain()
    live = LiveConsole("RTO", total=3, console=console, clock=clock)
    clock.now = 100
    live.begin()
    clock.now = 110
    live.log(0, {})
    assert stream.getvalue().endswith("1/3  left 0:20\n")


def test_a_terminal_shows_the_stage_and_the_figures() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    with LiveConsole("RTO", total=3, console=console) as live:
        live.log(0, {"reward/mean": 0.5})
        live.stage("generate")
    shown = stream.getvalue()
    assert "iteration 1/3" in shown
    assert "generate" in shown
    assert "0.5000" in shown


def test_model_text_cannot_drive_the_terminal_or_the_markup() -> None:
    console, stream = plain()
    LiveConsole("RTO", total=1, console=console).print("\x1b[2Jhi [red]there[/red]")
    assert stream.getvalue() == "\\x1b[2Jhi [red]there[/red]\n"


def test_table_shows_every_cell() -> None:
    console, stream = plain()
    console.print(table([{"stage": "sft", "gold": 0.25}, {"stage": "rto\x07", "gold": 12.0}]))
    shown = stream.getvalue()
    for text in ("stage", "gold", "sft", "0.2500", "rto\\x07", "12.0"):
        assert text in shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.0000"),
        (-0.12345, "-0.1235"),
        (1.5, "1.500"),
        (48.25, "48.2"),
        (12345.6, "12,346"),
        (5e-6, "5.00e-06"),
    ],
)
def test_figures_stay_short(value: float, expected: str) -> None:
    assert figure(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, "0:00"), (59.6, "1:00"), (192, "3:12"), (3723, "1:02:03")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
