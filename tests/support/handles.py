"""Actors as the driver sees them, without Ray: references that have an answer or none yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayActorError, RayTaskError

WAITING = object()
"""The answer of a call that is still running."""


@dataclass(eq=False)
class Ref:
    """A call's answer: a value, an exception, or ``WAITING``."""

    answer: Any = WAITING


@dataclass(eq=False)
class Handle:
    """An actor: a call of a method is noted, and its answer looked up by the method's name."""

    name: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__") and method != "__ray_ready__":
            raise AttributeError(method)
        return _Method(self, method)


@dataclass(frozen=True)
class _Method:
    handle: Handle
    name: str

    def remote(self, *args: Any, **kwargs: Any) -> Ref:
        self.handle.calls.append((self.name, *args, *([kwargs] if kwargs else [])))
        return Ref(self.handle.answers.get(self.name, f"{self.name} of {self.handle.name}"))


@dataclass
class Answers:
    """What ``rto.cluster`` asks of the module ``ray``, for such references."""

    killed: list[Any] = field(default_factory=list)

    def wait(
        self, refs: Sequence[Ref], num_returns: int = 1, timeout: float = 0, **options: Any
    ) -> tuple[list[Ref], list[Ref]]:
        """The last one that has an answer is the first to arrive."""
        ready = [ref for ref in refs if ref.answer is not WAITING][-num_returns:]
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: Ref, timeout: float | None = None) -> Any:
        if isinstance(ref.answer, BaseException):
            raise ref.answer
        return ref.answer

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def raised(error: Exception) -> RayTaskError:
    """As Ray hands it on to the driver."""
    return RayTaskError("method", f"a page of traceback\n{error}", error)


def died(said: str = "killed by the system\nmore of it") -> RayActorError:
    return RayActorError(error_msg=said)
