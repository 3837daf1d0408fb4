"""Groups of Ray actors, and waiting for them without losing sight of a dead one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rto.cluster import launch
from rto.cluster.deadlines import limit_of
from rto.cluster.stall import Processes
from rto.errors import ActorLost, RtoError, RunFailed, told
from rto.interrupt import ending

CHECK_SECONDS = 5.0
"""How often a wait looks at the actors that it does not wait for."""
VERDICT_SECONDS = 10.0
"""How long a failed call waits for news of a dead actor that may have caused it."""
LEAVE_SECONDS = 30.0
"""How long the end of a run waits for threads that wait for its actors."""
STOPPED_SECONDS = 30.0
"""How long an actor's process may be stopped, by a debugger, say."""
ANSWER_SECONDS = 60.0
"""How long an answer that is there may take to arrive."""

Ping = ObjectRef[None]
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass
class Gate:
    """What every thread passes that calls a run's actors or waits for them.

    Closed, it lets nobody in, and who is inside leaves: Ray may then be stopped, and started for
    the actors that come next.
    """

    closed: bool = False
    _inside: int = 0
    _moved: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def passed(self) -> Iterator[None]:
        """
        Raises:
            ActorLost: the gate is closed.
        """
        with self._moved:
            self.check()
            self._inside += 1
        try:
            yield
        finally:
            with self._moved:
                self._inside -= 1
                self._moved.notify_all()

    def check(self) -> None:
        """Those inside ask this from time to time.

        Raises:
            ActorLost: the gate is closed.
        """
        if self.closed:
            raise ActorLost("the actors of this run have been ended")

    def close(self) -> None:
        with self._moved:
            self.closed = True

    def wait_until_left(self, patience: float = LEAVE_SECONDS) -> None:
        with self._moved:
            self._moved.wait_for(lambda: self._inside == 0, patience)


@dataclass
class Watch:
    """All actors of a run by name, and a ping to each.

    A busy or hanging actor answers its ping late or never; only a dead one fails it, and one that
    has something to tell. So an actor that leaves its peers waiting in a collective is found
    although nobody waits for it.
    """

    actors: dict[str, ActorHandle] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)
    processes: Processes | None = None
    """Looks at them from outside, where the actors are real ones."""
    _asked: dict[str, RemoteCall[None]] = field(default_factory=dict)
    _pings: dict[str, Ping] = field(default_factory=dict)
    _looked: float = field(default_factory=time.monotonic)

    def add(self, name: str, actor: ActorHandle, ping: RemoteCall[None] | None = None) -> None:
        """``ping``: a call that raises what the actor failed with while others waited for it."""
        self.actors[name] = actor
        self._asked[name] = RemoteCall("__ray_ready__", (), {}) if ping is None else ping

    def remove(self, name: str) -> None:
        del self.actors[name], self._asked[name]
        self._pings.pop(name, None)

    def look(self) -> None:
        """From time to time: read the pings that came back and send those actors another.

        Raises:
            ActorLost: names an actor that is dead.
            RtoError: what an actor told; ``RunFailed``, naming it, where that is none of ours.
        """
        if time.monotonic() - self._looked > CHECK_SECONDS:
            self._check_processes()
            # An actor that is busy keeps the ping that it has: another one each time would pile up
            # in its queue.
            out = _unanswered(self._pings)
            self._pings = {name: out.get(name) or self._ping(name) for name in self.actors}
            self._looked = time.monotonic()

    def check(self, *, patience: float) -> None:
        """Ask every actor anew and give it ``patience`` seconds.

        Raises:
            ActorLost, RtoError: as ``look`` does.
        """
        self.check_ray()
        # Not the pings of ``look``: an actor may have answered those and died since.
        pings = {name: self._ping(name) for name in self.actors}
        deadline = time.monotonic() + patience
        while (pings := _unanswered(pings)) and time.monotonic() < deadline:
            self.gate.check()
            time.sleep(0.1)

    def check_ray(self) -> None:
        """
        Raises:
            ActorLost: a server of this run's own Ray has died, and the actors with it.
        """
        if self.processes is not None and (dead := launch.dead_server()) is not None:
            raise ActorLost(dead)

    def _check_processes(self) -> None:
        self.check_ray()
        if self.processes is None:
            return
        stopped = self.processes.stopped(self.actors, patience=STOPPED_SECONDS)
        if stopped is not None:
            raise ActorLost(f"actor {stopped} is stopped (SIGSTOP) for {STOPPED_SECONDS:.0f} s now")

    def explain(self, waiting: Sequence[str]) -> str:
        """Who of these actors keeps the others waiting; empty where that cannot be seen."""
        return "" if self.processes is None else self.processes.explain(self.actors, waiting)

    def _ping(self, name: str) -> Ping:
        return self._asked[name].send(self.actors[name])


def _unanswered(pings: Mapping[str, Ping]) -> dict[str, Ping]:
    """The pings that are still out."""
    out: dict[str, Ping] = {}
    for name, ping in pings.items():
        if not ray.wait([ping], timeout=0)[0]:
            out[name] = ping
            continue
        try:
            ray.get(ping, timeout=ANSWER_SECONDS)
        except RayTaskError as error:
            cause = own_words(error)
            if isinstance(cause, RtoError):
                raise cause from error
            raise RunFailed(f"actor {name} failed: {told(cause)}") from error
        except RayError as error:
            raise ActorLost(f"actor {name} died: {_reason(error)}") from error
    return out


@dataclass(frozen=True)
class RemoteCall(Generic[Result]):
    """A method of an actor's class with its arguments, which ``remote`` has checked against it."""

    method: str
    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def send(self, actor: ActorHandle) -> ObjectRef[Result]:
        return getattr(actor, self.method).remote(*self.args, **self.kwargs)


def remote(
    method: Callable[Concatenate[Any, Arguments], Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> RemoteCall[Result]:
    """A call of this method, to be made on an actor."""
    return RemoteCall(method.__name__, args, kwargs)


def arriving(reference: ObjectRef[Result]) -> Result:
    """A reference as an argument: Ray puts the value in its place before the actor reads it."""
    return cast(Result, reference)


@dataclass(frozen=True)
class ActorGroup:
    """Actors of one kind: rank i of a group is ``actors[i]``."""

    name: str
    actors: Sequence[ActorHandle]
    timeout: float
    watch: Watch = field(default_factory=Watch)

    def __len__(self) -> int:
        return len(self.actors)

    def all(self, call: RemoteCall[Result]) -> Pending[Result]:
        """The same call on every actor."""
        return self.each([call] * len(self))

    def each(self, calls: Sequence[RemoteCall[Result]]) -> Pending[Result]:
        """One call per actor, of one method, each with its own arguments."""
        pairs = zip(self.actors, calls, strict=True)
        with self.watch.gate.passed():
            return Pending(self, calls[0].method, [call.send(actor) for actor, call in pairs])

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


@dataclass(frozen=True)
class Pending(Generic[Result]):
    """Calls in flight on a group. Of every ``alike`` neighbours, who answer the same, the first one
    is heard."""

    group: ActorGroup
    method: str
    refs: Sequence[ObjectRef[Result]]
    alike: int = 1

    def get(self, timeout: float | None = None) -> list[Result]:
        """Results in rank order; the first failure of any actor ends the wait.

        Raises:
            ActorLost: an actor of the run died, or one of these did not answer in time.
            RtoError: what an actor raised; ``RunFailed``, naming it, where that is none of ours.
            Terminated: a signal asked the run to end (`rto.interrupt`).
        """
        with self.group.watch.gate.passed():
            return self._get(timeout or limit_of(self.method, self.group.timeout))

    def _get(self, limit: float) -> list[Result]:
        deadline, watch = time.monotonic() + limit, self.group.watch
        waiting = list(self.refs)
        results: dict[ObjectRef[Result], Result] = {}
        while waiting:
            # A second at a time: an actor that nobody waits for here may be the one that died.
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=1.0, fetch_local=False)
            for ref in ready:
                results[ref] = self._fetch(ref)
            if waiting:
                watch.gate.check()
                watch.look()
                ending.check()
            if waiting and time.monotonic() > deadline:
                raise ActorLost(self._late(waiting, f"within {limit:.0f} s"))
        return [results[ref] for ref in self.refs[:: self.alike]]

    def _late(self, waiting: Sequence[ObjectRef[Result]], limit: str) -> str:
        names = [self._name(ref) for ref in waiting]
        said = f"{', '.join(names)} did not answer {self.method} {limit}"
        return "; ".join(filter(None, [said, self.group.watch.explain(names)]))

    def _name(self, ref: ObjectRef[Result]) -> str:
        return f"{self.group.name}[{list(self.refs).index(ref)}]"

    def _fetch(self, ref: ObjectRef[Result]) -> Result:
        try:
            return ray.get(ref, timeout=ANSWER_SECONDS)
        except RayTaskError as error:
            cause = own_words(error)
            if isinstance(cause, RtoError):
                raise cause from error
            # Ranks whose peer died fail too, often before Ray tells of the death.
            self.group.watch.check(patience=VERDICT_SECONDS)
            late = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0)[1]
            if late and is_timeout(cause):
                problem = self._late(late, f"while {self._name(ref)} waited in a collective")
                raise ActorLost(problem) from error
            raise RunFailed(f"{self._name(ref)} failed in {self.method}: {told(cause)}") from error
        except RayActorError as error:
            self.group.watch.check_ray()
            message = f"actor {self._name(ref)} died in {self.method}: {_reason(error)}"
            raise ActorLost(message) from error
        except GetTimeoutError as error:
            raise ActorLost(f"{self._name(ref)}: result of {self.method} was lost") from error
        except RayError as error:
            message = f"{self._name(ref)} was lost in {self.method}: {_reason(error)}"
            raise ActorLost(message) from error


def own_words(error: RayTaskError) -> BaseException:
    """What was raised in the actor: Ray's own error has a page of its traceback for a text."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    return cause


def is_timeout(error: BaseException) -> bool:
    """Whether a collective gave up on a rank that did not come: gloo and NCCL say so in words."""
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("timed out" in said or "timeout" in said)


def _reason(error: RayError) -> str:
    return str(error).strip().splitlines()[0]
