from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from rto.tracking.console import (
    HEARTBEAT,
    LiveConsole,
    duration,
    figure,
    sparkline,
    table,
    where_to_look,
)


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
    live = LiveConsole("RTO", total=10, console=console, clock=clock, tell=lambda _: None)
    live.begin(8)
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


def opened() -> tuple[LiveConsole, Clock, io.StringIO, list[str]]:
    """A console of three steps, its clock, what it prints, and the phases that it tells of."""
    clock, told = Clock(), list[str]()
    console, stream = plain()
    live = LiveConsole("RTO", total=3, console=console, clock=clock, tell=told.append)
    return live, clock, stream, told


def test_each_phase_before_the_first_step_is_told() -> None:
    live, _, stream, told = opened()
    for name in ("loading policy", "self-check"):
        live.stage(name)
    live.begin()
    live.stage("generate")
    assert told == ["loading policy", "self-check", "first step"]
    assert stream.getvalue() == ""


def test_a_phase_is_a_line_with_its_second(capsys: pytest.CaptureFixture[str]) -> None:
    console, _ = plain()
    LiveConsole("RTO", total=3, console=console).stage("loading policy")
    assert re.fullmatch(r"\[ *\d+ s\] loading policy\n", capsys.readouterr().out)


def test_progress_within_a_phase_is_told_every_ten_seconds_with_its_count() -> None:
    live, clock, stream, told = opened()
    for done in range(6):
        clock.now = 4.0 * done
        live.progress("reference log-probs", 100 * done, 600)
    assert told == ["reference log-probs"]
    assert stream.getvalue().splitlines() == ["RTO: reference log-probs 300/600 12 s"]
    live.stage("self-check")
    clock.now += HEARTBEAT
    live.beat()
    assert stream.getvalue().splitlines()[-1] == "RTO: self-check 60 s"


def test_a_long_step_gives_a_sign_of_life() -> None:
    live, clock, stream, _ = opened()
    live.begin()
    live.log(0, {})
    live.stage("generate")
    before = len(stream.getvalue())
    for _ in range(150):
        clock.now += 1
        live.beat()
    assert stream.getvalue()[before:].splitlines() == [
        "RTO: iteration 2/3: generate 60 s", "RTO: iteration 2/3: generate 120 s",
    ]  # fmt: skip


def test_the_sign_of_life_comes_by_itself_and_ends_with_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every 10 ms instead of every second; once the console is closed there is none."""
    console, stream = plain()
    monkeypatch.setattr("rto.tracking.console.LOOK", 0.01)
    clock = Clock()
    with LiveConsole("RTO", total=3, console=console, clock=clock):
        clock.now = HEARTBEAT
        deadline = time.monotonic() + 10
        while "starting 60 s" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    shown = stream.getvalue()
    assert "RTO: starting 60 s" in shown
    clock.now = 10 * HEARTBEAT
    time.sleep(0.05)
    assert stream.getvalue() == shown


def test_a_metric_keeps_its_last_value() -> None:
    console, stream = plain()
    columns = {"loss": "sft/loss", "held out": "eval/nll_per_token"}
    live = LiveConsole("SFT", total=2, console=console, columns=columns, clock=Clock())
    live.log(0, {"sft/loss": 1.5, "eval/nll_per_token": 2.5})
    live.log(1, {"sft/loss": 1.25})
    assert (
        stream.getvalue()
        .splitlines()[-1]
        .startswith("SFT: iteration 2/2  loss 1.250  held out 2.5")
    )


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", "a is b  ✓"), ("ascii", "a is b  ok")]
)
def test_a_tick_in_any_encoding(encoding: str, expected: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    LiveConsole("RTO", total=1, console=Console(file=stream, width=80)).tick("a is b")
    assert raw.getvalue().decode(encoding) == f"{expected}\n"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"), ([7, 0], "█▁"), ([2, 2, 2], "▅▅▅"), ([-1, 0], "▁█")],
)
def test_a_sparkline_goes_from_the_least_to_the_greatest(
    values: list[float], expected: str
) -> None:
    assert sparkline(values) == expected


def test_a_terminal_shows_the_past_of_reward_and_loss() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    with LiveConsole("RTO", total=3, console=console) as live:
        live.log(0, {"reward/mean": 0.0, "policy/loss": 1.0, "kl/mean": 1.0})
        live.log(1, {"reward/mean": 1.0, "policy/loss": 0.5, "kl/mean": 2.0})
        console.print(live.render())
    assert "▁█" in stream.getvalue()
    assert "█▁" in stream.getvalue()


def test_where_the_curves_are_can_be_copied_to_a_shell() -> None:
    folder = Path("my runs") / "a"
    assert where_to_look(folder, tensorboard=True) == (
        "curves: tensorboard --logdir 'my runs/a/tensorboard', rto report --watch 'my runs/a'"
    )
    assert where_to_look(Path("runs/a"), tensorboard=False) == "curves: rto report --watch runs/a"


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
