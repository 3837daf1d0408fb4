"""R9 and R10: processes that are stopped, and runs that are asked to end at any moment.

Tries of one goal go on from one another: a run that was asked to end is taken up by the next try.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from fault_runs import (
    NO_RESTARTS,
    Started,
    Tiny,
    about,
    metrics,
    moments,
    run_to_end,
    same,
    started,
    state,
    tries,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
LONGEST = 10.0
"""Seconds from the signal to the end of the process, for a tiny model."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.build(tmp_path_factory.mktemp("tiny"))


def ended_as_asked(begun: Started, number: signal.Signals) -> str:
    """Send the signal; what was wrong with the end, empty if nothing was."""
    begun.look()
    begun.process.send_signal(number)
    asked = time.monotonic()
    code, said = begun.end(60)
    took = time.monotonic() - asked
    if code == 0:
        return "" if about(begun.folder)["status"] == "finished" else "an end that was none"
    wrong = "" if took <= LONGEST else f"{took:.1f} s to the end; "
    # Before there is a run the system ends the process.
    early = not (begun.folder / "run.json").exists()
    if code != 128 + number and not (early and code == -number):
        wrong += f"exit code {code}; "
    if left := begun.survivors():
        wrong += f"left: {left}; "
    if early:
        return wrong and f"{wrong}({said})"
    told = about(begun.folder)
    done = [row["iteration"] for row in metrics(begun.folder)]
    kept = f"step_{done[-1]:08d}" if done else None
    if (told["status"], told["checkpoint"]) != ("interrupted", kept):
        wrong += f"run.json says {told['status']}, {told['checkpoint']}; it was at {kept}; "
    if number.name not in told["reason"]:
        wrong += f"the reason is {told['reason']}; "
    return wrong and f"{wrong}({said})"


@pytest.mark.goal(
    "R10", "a signal at a random moment: its exit code in 10 s, the last iteration kept, none left"
)
@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_run_may_be_asked_to_end_at_any_moment(
    tally: Any, tiny: Tiny, tmp_path: Path, command: str
) -> None:
    """In the end it is the run that nobody interrupted."""
    draw, many = moments(10), tries(20 if command == "train" else 6)
    steps = many * (4 if command == "train" else 40)
    flags = tiny.online(steps) if command == "train" else tiny.offline(steps)
    folder, whole = tmp_path / "parts", tmp_path / "whole"
    for attempt in range(many):
        number = draw.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGINT])
        with started(command, folder, {**flags, "ckpt.load_enable": "true"}) as begun:
            before = len(metrics(folder))
            if draw.random() < 0.25:
                time.sleep(draw.uniform(0, 12))
            else:
                begun.wait_for_iterations(min(before + 1, steps))
                time.sleep(draw.uniform(0, 3))
            wrong = ended_as_asked(begun, number)
            print(f"{command} {attempt}: {number.name} at {len(metrics(folder))}: {wrong or 'ok'}")
            tally.count(not wrong)
    run_to_end(command, folder, {**flags, "ckpt.load_enable": "true"})
    run_to_end(command, whole, flags)
    assert metrics(folder) == metrics(whole)
    tally.count(same(state(folder), state(whole)))


@pytest.mark.goal("R10", "two signals: the run ends at once, and the older checkpoint is kept")
def test_a_second_signal_ends_a_run_at_once(tally: Any, tiny: Tiny, tmp_path: Path) -> None:
    flags = tiny.online(1000, ckpt__save_steps=2)
    with started("train", tmp_path / "run", flags) as begun:
        begun.wait_for_iterations(3)
        begun.process.send_signal(signal.SIGTERM)
        begun.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        begun.process.send_signal(signal.SIGTERM)
        code, _ = begun.end(30)
        assert tally.count(code in (143, -signal.SIGTERM) and not begun.survivors())
    (kept, *_) = sorted((tmp_path / "run" / "checkpoints").glob("step_*"), reverse=True)
    assert json.loads((kept / "manifest.json").read_text())["files"]


ROLES = {
    "policy[1]": ("TrainerActor", 1),
    "critic[0]": ("TrainerActor", 2),
    "scorer[0]": ("ScorerActor", 0),
    "engine[0]": ("EngineActor", 0),
}
"""Role -> the title of its process, and which of them it is by age."""


@pytest.mark.goal("R9", "SIGSTOP of a role: named within 60 s, nothing left, the run can go on")
@pytest.mark.parametrize("role", ROLES)
def test_a_stopped_process_is_named(tally: Any, tiny: Tiny, tmp_path: Path, role: str) -> None:
    title, index = ROLES[role]
    folder = tmp_path / "run"
    flags = tiny.online(1000, ckpt__save_steps=1)
    flags["ref.model_name_or_path"] = tiny.base
    with started("train", folder, {**flags, **NO_RESTARTS}) as begun:
        begun.wait_for_iterations(2)
        found = sorted(begun.named(title), key=lambda each: each.create_time())
        found[index].suspend()
        stopped = time.monotonic()
        code, said = begun.end(120)
        took = time.monotonic() - stopped
        named = "is stopped (SIGSTOP)" in said
        if title != "TrainerActor":  # Which rank is the older one is not fixed.
            named = named and role in said
        held = named and code == 75 and took < 60 and not begun.survivors()
        print(f"{role}: exit code {code} after {took:.0f} s: {said}")
        assert tally.count(held)
    assert about(folder)["status"] == "failed"
    done = len(metrics(folder))
    run_to_end("train", folder, {**flags, "train.max_steps": done + 2, "ckpt.load_enable": "true"})


@pytest.mark.goal("R9", "SIGSTOP of a rank that others wait for in a collective: that one is named")
def test_a_rank_that_does_not_come_is_named_by_the_others(
    tally: Any, tiny: Tiny, tmp_path: Path
) -> None:
    flags = tiny.offline(100_000, ckpt__save_steps=20, ds__timeout=8)
    with started("sft", tmp_path / "run", {**flags, **NO_RESTARTS}) as begun:
        begun.wait_for_iterations(25)
        victim = begun.named("TrainerActor")[0]
        victim.suspend()
        code, said = begun.end(120)
        print(f"exit code {code}: {said}")
        held = code == 75 and "is stopped (SIGSTOP)" in said and "last checkpoint" in said
        assert tally.count(held and not begun.survivors())


@pytest.mark.goal("R9", "kill -9 of the driver or a server of Ray: nothing left after 10 s")
@pytest.mark.parametrize("victim", ["driver", "raylet", "gcs_server"])
def test_nothing_is_left(tally: Any, tiny: Tiny, tmp_path: Path, victim: str) -> None:
    flags = tiny.offline(100_000, ckpt__save_steps=20)
    with started("sft", tmp_path / "run", {**flags, **NO_RESTARTS}) as begun:
        begun.wait_for_iterations(25)
        if victim == "driver":
            begun.process.kill()
            begun.process.wait()
            assert tally.count(not begun.survivors())
            return
        begun.named(victim)[0].kill()
        killed = time.monotonic()
        code, said = begun.end(60)
        print(f"{victim}: exit code {code} after {time.monotonic() - killed:.0f} s: {said}")
        left = begun.survivors()
        held = code == 75 and f"({victim}) was killed by signal 9" in said
        assert tally.count(held and "last checkpoint" in said and not left), left
