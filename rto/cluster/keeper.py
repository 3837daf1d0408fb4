"""What a run leaves behind: checkpoints to go on from, and the `last` and `best` exports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rto.cluster.groups import ActorGroup
from rto.errors import UserError
from rto.protocols import Targets
from rto.training.checkpoint import Checkpoint, CheckpointStore

STATE = "state"
"""Name of an engine's state inside a checkpoint's folder of its group."""

AnyMethod = TypeVar("AnyMethod", bound=Targets)


@dataclass
class RunKeeper:
    """Implements ``Keeper``: checkpoints every ``save_steps`` and after the last step.

    ``groups`` are the trained ones, policy first. ``best`` is the highest ``best_key`` among the
    iterations that were saved.
    """

    store: CheckpointStore
    groups: Mapping[str, ActorGroup]
    exports: Path
    last_step: int
    save_steps: int
    best_key: str
    save_value_network: bool = False
    best: float = float("-inf")
    constants: Mapping[str, float] = field(default_factory=dict)
    """Of the training set, kept in each checkpoint; going on with others is refused."""

    def after(self, iteration: int, method: Targets, metrics: Mapping[str, float]) -> None:
        done = iteration + 1 == self.last_step
        if not done and (self.save_steps < 1 or (iteration + 1) % self.save_steps):
            return
        improved = metrics.get(self.best_key, float("-inf")) > self.best
        if improved:
            self.best = metrics[self.best_key]
        self._checkpoint(iteration, method)
        self._export("last")
        if improved:
            self._export("best")

    def resume(self, method: AnyMethod, found: Checkpoint) -> AnyMethod:
        """Load a checkpoint into the groups; returns the method as it was."""
        for name, group in self.groups.items():
            group.call("load", str(found.path / name), STATE)
        kept = found.state["constants"]
        if kept != dict(self.constants):
            raise UserError(
                f"checkpoint {found.path} was made with the constants {kept} of its training set, "
                f"this run has {dict(self.constants)}: give it the same data and seed"
            )
        if found.state["best"] is not None:
            self.best = found.state["best"]
        return _restored(method, found.state["method"])

    def _checkpoint(self, iteration: int, method: Targets) -> None:
        folder = self.store.begin(iteration)
        for name, group in self.groups.items():
            group.call("save", str(folder / name), STATE)
        best = self.best if self.best > float("-inf") else None
        state = {"method": _fields(method), "best": best, "constants": dict(self.constants)}
        self.store.commit(iteration, state)

    def _export(self, name: str) -> None:
        self.groups["policy"].call("export", str(self.exports / name))
        if self.save_value_network and "critic" in self.groups:
            self.groups["critic"].call("export", str(self.exports / f"{name}_critic"))


def _fields(method: Any) -> dict[str, Any]:
    """The numbers of a method: what ``adapt`` may have changed."""
    values = dataclasses.asdict(method)
    return {k: v for k, v in values.items() if isinstance(v, int | float)}


def _restored(method: Any, fields: Mapping[str, Any]) -> Any:
    """The method with the adapted coefficient of the checkpoint; other fields are this run's."""
    adapted = {"kl_coef": fields["kl_coef"]} if "kl_coef" in fields else {}
    return dataclasses.replace(method, **adapted)
