"""Who keeps the others waiting: the actors' processes, as the system shows them.

An actor that is busy answers no call. So it is looked at from outside: whether its process is
stopped, and where its main thread is, which it writes down when a signal asks for it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import ray
from ray._private.state import actors as actor_table
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rto.processes import stat_fields

STOPPED = "T"
"""State of a process that SIGSTOP, or Ctrl-Z, has stopped."""
ASK = signal.SIGUSR2
"""Has an actor write down its stacks."""
WRITE_SECONDS = 1.0
ANSWER_SECONDS = 30.0
"""How long another node may take to look at its processes."""
COLLECTIVE = ("torch/distributed/", "deepspeed/comm/")
"""Files whose functions wait for the other ranks."""
_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>\S+)')
_files: list[IO[str]] = []

Place = tuple[str, int]
"""A node's id and the number of a process there."""


@dataclass(frozen=True)
class Seen:
    """A process. ``state`` is the letter that /proc shows, empty of one that is gone."""

    state: str
    stack: str = ""

    @property
    def frames(self) -> list[str]:
        """Of the main thread, which is written last, the innermost first."""
        last = re.split(r"^(?:Current t|T)hread ", self.stack, flags=re.MULTILINE)[-1]
        return [line.strip() for line in last.splitlines() if _FRAME.search(line)]

    @property
    def waits_for_peers(self) -> bool:
        return any(part in frame for frame in self.frames for part in COLLECTIVE)

    @property
    def told(self) -> str:
        if self.state == STOPPED:
            return "is stopped (SIGSTOP)"
        if not self.state:
            return "is gone"
        match = _FRAME.search(self.frames[0]) if self.frames else None
        if match is None:
            return f"told nothing of where it is (state {self.state})"
        return f"is in {match['function']} ({Path(match['file']).name}:{match['line']})"


@dataclass
class Processes:
    """Of a run's actors, by their names. ``logs`` is where stacks are kept."""

    logs: Path | None = None
    _places: dict[str, Place] = field(default_factory=dict)
    """Of each actor that was asked for, by its id."""
    _stopped: dict[Place, float] = field(default_factory=dict)
    """Since when a process is seen stopped."""

    def stopped(self, actors: Mapping[str, ActorHandle], *, patience: float) -> str | None:
        """The first actor on this node that has been stopped for ``patience`` seconds."""
        here, now = ray.get_runtime_context().get_node_id(), time.monotonic()
        for name, place in self._find(actors).items():
            node, pid = place
            if node != here or state_of(pid) != STOPPED:
                self._stopped.pop(place, None)
            elif now - self._stopped.setdefault(place, now) >= patience:
                return name
        return None

    def explain(self, actors: Mapping[str, ActorHandle], waiting: Sequence[str]) -> str:
        """Which of the actors that are waited for keep the others waiting, and what they do; the
        stacks of all go to the logs. Empty where nothing can be seen."""
        places = self._find(actors)
        nodes = {node for node, _ in places.values()}
        found: dict[Place, Seen] = {}
        for node in nodes:
            pids = [pid for each, pid in places.values() if each == node]
            found |= {(node, pid): seen for pid, seen in _on_node(node, pids).items()}
        seen = {name: found[place] for name, place in places.items() if place in found}
        said = blamed({name: seen[name] for name in waiting if name in seen})
        kept = self._keep(seen)
        return "; ".join(filter(None, [said, kept]))

    def _find(self, actors: Mapping[str, ActorHandle]) -> dict[str, Place]:
        """Of those that run by Ray's account; none where the system shows no processes."""
        if not Path("/proc/self/stat").exists():
            return {}
        ids = {name: handle._actor_id.hex() for name, handle in actors.items()}
        if not self._places.keys() >= set(ids.values()):
            self._places = {
                actor: (row["Address"]["NodeID"], row["Pid"])
                for actor, row in actor_table().items()
                if row["Pid"]
            }
        return {name: self._places[id] for name, id in ids.items() if id in self._places}

    def _keep(self, seen: Mapping[str, Seen]) -> str:
        if self.logs is None or not any(each.stack for each in seen.values()):
            return ""
        path = self.logs / "stacks.txt"
        parts = [f"{name} {each.told}\n{each.stack}\n" for name, each in seen.items()]
        path.write_text("\n".join(parts), encoding="utf-8", errors="backslashreplace")
        return f"the stacks of all: {path}"


def blamed(waiting: Mapping[str, Seen]) -> str:
    """Those that are not there, else those that wait for no peer, else all, and what they do."""
    tests = (
        lambda seen: seen.state in (STOPPED, ""),
        lambda seen: not seen.waits_for_peers,
        lambda seen: True,
    )
    for is_to_blame in tests:
        found = {name: seen for name, seen in waiting.items() if is_to_blame(seen)}
        if found:
            return ", ".join(f"{name} {seen.told}" for name, seen in found.items())
    return ""


def write_stacks_when_asked() -> None:
    """From now on this process, an actor's, writes its stacks to a file in Ray's logs when it gets
    the signal ``ASK``."""
    while _files:
        _files.pop().close()
    file = _stack_file(os.getpid()).open("w", encoding="utf-8")
    _files.append(file)
    faulthandler.register(ASK, file=file, all_threads=True)


def look(pids: Sequence[int]) -> dict[int, Seen]:
    """On the node of the processes; those that are not stopped are asked for their stacks."""
    states = {pid: state_of(pid) for pid in pids}
    before = {pid: _size(_stack_file(pid)) for pid in pids}
    asked = [pid for pid in pids if states[pid] not in (STOPPED, "") and before[pid] is not None]
    for pid in asked:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, ASK)
    time.sleep(WRITE_SECONDS if asked else 0)
    return {pid: Seen(states[pid], _added(_stack_file(pid), before[pid])) for pid in pids}


LOOK = ray.remote(num_cpus=0, max_retries=0)(look)


def _on_node(node: str, pids: Sequence[int]) -> dict[int, Seen]:
    if node == ray.get_runtime_context().get_node_id():
        return look(pids)
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        return ray.get(LOOK.options(scheduling_strategy=there).remote(pids), timeout=ANSWER_SECONDS)
    except RayError:
        return {}


def state_of(pid: int) -> str:
    """As /proc has it; empty of a process that is gone, and where there is no /proc."""
    return next(iter(stat_fields(Path("/proc", str(pid)))), "")


def _stack_file(pid: int) -> Path:
    session = Path(ray.get_runtime_context().worker.node.get_session_dir_path())  # pyright: ignore
    return session / "logs" / f"stacks_{pid}.txt"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _added(path: Path, before: int | None) -> str:
    if before is None:
        return ""
    with path.open("rb") as file:
        file.seek(before)
        return file.read().decode("utf-8", "replace")
