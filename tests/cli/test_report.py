"""`rto report --watch`: the page follows a run and is left whole when it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rto.cli import report
from rto.errors import UserError
from rto.tracking.run_folder import RunFolder
from run_folders import metrics_row, write_run


class Clock:
    """Time that passes in ``sleep`` alone, where the test acts too: one act per sleep."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self.now = 0.0
        self.acts: Sequence[Callable[[], object]] = acts

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.acts:
            act, *self.acts = self.acts
            act()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(report, "time", clock)
    return clock


def add_row(folder: Path, iteration: int) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics_row(iteration)) + "\n")


def test_it_follows_the_run_and_ends_with_it(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "rto")
    page, seen = folder / "report.html", list[str]()
    run = RunFolder(folder, resume=True)

    def look() -> None:
        seen.append(page.read_text())
        add_row(folder, len(seen) + 2)

    def end() -> None:
        seen.append(page.read_text())
        run.close()

    clock.acts = [look, end]
    assert report.main([str(folder), "--watch", "--every", "7"]) == 0
    assert ["3 iterations" in seen[0], "4 iterations" in seen[1]] == [True, True]
    for each in seen:
        assert '<meta http-equiv="refresh" content="7">' in each
        assert '"reload":7' in each
    last = page.read_text()
    assert ("refresh" in last, '"reload":null' in last) == (False, True)
    assert clock.now == 14
    assert "Ctrl-C ends it" in capsys.readouterr().out
    assert list(folder.glob(".report*")) == []


def test_a_run_that_has_ended_is_written_once(tmp_path: Path, clock: Clock) -> None:
    folder = write_run(tmp_path / "rto")
    assert report.main([str(folder), "--watch"]) == 0
    assert clock.now == 0
    assert '"reload":null' in (folder / "report.html").read_text()


def test_the_draft_of_the_runs_own_report_is_not_touched(tmp_path: Path, clock: Clock) -> None:
    folder = write_run(tmp_path / "rto")
    (folder / "report.html.tmp").write_text("half a page")
    assert report.main([str(folder), "--watch"]) == 0
    assert (folder / "report.html.tmp").read_text() == "half a page"


def test_ctrl_c_leaves_a_page_that_does_not_load_itself(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "rto")

    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.acts = [interrupt]
    with RunFolder(folder, resume=True):
        assert report.main([str(folder), "--watch"]) == 0
    assert '"reload":null' in (folder / "report.html").read_text()
    assert "ended by Ctrl-C" in capsys.readouterr().out


def test_the_next_stage_of_a_folder_of_runs_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    """The first stage ends after 10 s; the second begins 50 s later, and ends at 70 s."""
    first = RunFolder(write_run(tmp_path / "sft"), resume=True)
    second: list[RunFolder] = []

    def nothing() -> None:
        pass

    def begin() -> None:
        second.append(RunFolder(write_run(tmp_path / "dpo"), resume=True))

    clock.acts = [first.close, *[nothing] * 4, begin, lambda: second[0].close()]
    assert report.main([str(tmp_path), "--watch"]) == 0
    assert "dpo" in (tmp_path / "report.html").read_text()
    # Last seen going on at 60 s.
    assert clock.now == 60 + report.BETWEEN_STAGES


def test_what_cannot_be_read_now_is_told_once_and_the_page_stays(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "rto")
    metrics = folder / "metrics.jsonl"
    whole, pages = metrics.read_text(), list[str]()

    def damage() -> None:
        pages.append((folder / "report.html").read_text())
        metrics.write_text("x\n")

    def look() -> None:
        assert (folder / "report.html").read_text() == pages[0]

    run = RunFolder(folder, resume=True)
    clock.acts = [damage, look, look, lambda: metrics.write_text(whole), run.close]
    assert report.main([str(folder), "--watch"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("no new report for now: ")
    assert "metrics.jsonl:1: not JSON" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["gone", "--watch"], "run folder gone: no such folder"),
        (["gone", "--watch", "--every", "0"], "--every"),
        (["gone", "--watch", "--every", "86401"], "from 1 to 86400"),
        (["gone", "--every", "5"], "report: --every goes with --watch"),
    ],
)
def test_a_mistake_is_one_line(
    argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        report.main(argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
