"""Groups of Ray actors, and waiting for them without losing sight of a dead one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rto.errors import ActorLost


@dataclass(frozen=True)
class ActorGroup:
    """Actors of one kind: rank i of a group is ``actors[i]``."""

    name: str
    actors: Sequence[ActorHandle]
    timeout: float

    def __len__(self) -> int:
        return len(self.actors)

    def start(self, method: str, *args: Any, **kwargs: Any) -> Pending:
        """The same call on every actor."""
        refs = [getattr(actor, method).remote(*args, **kwargs) for actor in self.actors]
        return Pending(self, method, refs)

    def start_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> Pending:
        """One call per actor, each with its own arguments."""
        pairs = zip(self.actors, arguments, strict=True)
        refs = [getattr(actor, method).remote(*args) for actor, args in pairs]
        return Pending(self, method, refs)

    def call(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        return self.start(method, *args, **kwargs).get()

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


@dataclass(frozen=True)
class Pending:
    """Calls in flight on a group."""

    group: ActorGroup
    method: str
    refs: Sequence[Any]

    def get(self, timeout: float | None = None) -> list[Any]:
        """Results in rank order; the first failure of any actor ends the wait.

        Raises:
            ActorLost: an actor died or did not answer in time.
        """
        limit = timeout or self.group.timeout
        deadline = time.monotonic() + limit
        waiting = list(self.refs)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=1.0, fetch_local=False)
            for ref in ready:
                self._fetch(ref)
            if waiting and time.monotonic() > deadline:
                names = ", ".join(self._name(ref) for ref in waiting)
                raise ActorLost(f"{names} did not answer {self.method} within {limit:.0f} s")
        return [self._fetch(ref) for ref in self.refs]

    def _name(self, ref: Any) -> str:
        return f"{self.group.name}[{list(self.refs).index(ref)}]"

    def _fetch(self, ref: Any) -> Any:
        try:
            return ray.get(ref, timeout=60)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except RayActorError as error:
            cause = str(error).strip().splitlines()[0]
            raise ActorLost(f"actor {self._name(ref)} died in {self.method}: {cause}") from error
        except GetTimeoutError as error:
            raise ActorLost(f"{self._name(ref)}: result of {self.method} was lost") from error
