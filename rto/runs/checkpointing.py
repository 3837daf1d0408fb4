"""What a run leaves behind: checkpoints to go on from, and the `last` and `best` exports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NotRequired, Protocol, TypedDict, TypeVar, cast

from rto.cluster.calls import Trainers
from rto.errors import UserError, nearest
from rto.protocols import Method
from rto.runs.drawn import write_drawn
from rto.training.checkpoint import Checkpoint, CheckpointStore
from rto.types import Rollout

STATE = "state"
"""Name of an engine's state inside a checkpoint's folder of its group."""

LOWER_IS_BETTER = ("loss", "nll", "perplexity")
"""Metrics with one of these in their name are better the lower they are."""

EVAL = "eval/"
"""Area of the metrics of held-out rows."""

AnyMethod = TypeVar("AnyMethod", bound=Method)
Complete = Callable[[Path, Mapping[str, float]], None]
Settle = Callable[[], None]


class DataclassValue(Protocol):
    """Any dataclass: what the functions of ``dataclasses`` take."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class BestSoFar(TypedDict):
    """What chose the `best` export until a step."""

    key: str
    lower: bool
    patience: int | None
    value: float | None
    step: int
    waited: int


class KeptState(TypedDict):
    """What a checkpoint holds of a run beside its engines."""

    constants: dict[str, float]
    best_so_far: NotRequired[BestSoFar]
    adapted: NotRequired[dict[str, object]]
    """The method's fields that the run changed."""
    method: NotRequired[dict[str, object]]
    """All numbers of the method: what older checkpoints hold in place of ``adapted``."""


@dataclass(frozen=True)
class Best:
    """The best value of one metric so far. ``waited`` counts what was judged since and no better;
    ``patience`` of that ends the run."""

    key: str = ""
    lower: bool = False
    patience: int | None = None
    value: float | None = None
    step: int = -1
    waited: int = 0

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def judged(self, step: int, value: float) -> Best:
        """With the value of one more step; an equal one is no better."""
        before = self.value
        if before is None or (value < before if self.lower else value > before):
            return replace(self, value=value, step=step, waited=0)
        return replace(self, waited=self.waited + 1)

    def kept(self) -> BestSoFar:
        """As a checkpoint holds it."""
        return cast(BestSoFar, dataclasses.asdict(self))

    def restored(self, kept: BestSoFar | None) -> Best:
        """As a checkpoint has it; where that chose by another metric, the choice begins anew."""
        if kept is None or (kept["key"], kept["lower"]) != (self.key, self.lower):
            return self
        return replace(self, value=kept["value"], step=kept["step"], waited=kept["waited"])


def lower_is_better(key: str, mode: str) -> bool:
    """What ``ckpt.best_metric_mode`` means for a metric."""
    if mode != "auto":
        return mode == "min"
    return any(part in LOWER_IS_BETTER for part in key.split("/")[-1].split("_"))


def nothing_more(path: Path, metrics: Mapping[str, float]) -> None:
    return None


def nothing_open() -> None:
    return None


@dataclass
class RunCheckpointer:
    """Implements ``Checkpointer``: checkpoints every ``save_steps`` and after the last step.

    ``groups`` are the trained ones, policy first. The ``best`` export is chosen among the
    iterations that were saved; by a metric of held-out rows, among those that were evaluated.
    """

    store: CheckpointStore
    groups: Mapping[str, Trainers]
    exports: Path
    last_step: int
    save_steps: int
    built: Method
    """The method as this run's settings make it, before ``adapt`` changes it."""
    best: Best = Best()
    save_value_network: bool = False
    complete: Complete = nothing_more
    """What an export of the policy still needs, given its folder and the step's metrics."""
    settle: Settle = nothing_open
    """Returns when all that the run has written until now is on the disk: a checkpoint refers to
    it."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Of the training set, kept in each checkpoint; going on with others is refused."""
    key_known: bool = False
    """Whether it is settled that the run has the metric that chooses `best`."""

    @property
    def stopped(self) -> bool:
        return self.best.exhausted

    def after(
        self,
        iteration: int,
        method: Method,
        metrics: Mapping[str, float],
        drawn: Sequence[Sequence[Rollout]] = (),
    ) -> None:
        due = self.save_steps >= 1 and (iteration + 1) % self.save_steps == 0
        before, key = self.best, self.best.key
        self._check_key(metrics)
        if key in metrics and (due or self._is_last(iteration) or key.startswith(EVAL)):
            self.best = before.judged(iteration, metrics[key])
        if self.best.step != before.step:
            self._export("best", metrics)
        if due or self._is_last(iteration) or self.stopped:
            self._checkpoint(iteration, method, drawn)
            self._export("last", metrics)

    def _check_key(self, metrics: Mapping[str, float]) -> None:
        """Once: a name that no iteration has would leave the run without a `best`."""
        key = self.best.key
        if key and key not in metrics and not key.startswith(EVAL) and not self.key_known:
            raise UserError(
                f"ckpt.best_metric_key is {key!r}, which this run does not log: "
                f"{nearest(key, metrics) or 'see metrics.jsonl'}"
            )
        self.key_known = True

    def _is_last(self, iteration: int) -> bool:
        return iteration + 1 == self.last_step

    def resume(self, method: AnyMethod, found: Checkpoint) -> AnyMethod:
        """Load a checkpoint into the groups; returns the method with what was adapted then.

        Of a run that has come to its end `last` is written again: no step will, and the one that
        did may have been stopped between its checkpoint and its export.
        """
        for name, group in self.groups.items():
            group.load(str(found.path / name), STATE)
        state = cast(KeptState, found.state)
        kept = state["constants"]
        if kept != dict(self.constants):
            raise UserError(
                f"checkpoint {found.path} was made with the constants {kept} of its training set, "
                f"this run has {dict(self.constants)}: give it the same data and seed"
            )
        self.best = self.best.restored(state.get("best_so_far"))
        if self._is_last(found.step) or self.stopped:
            self._export("last", {})
        return _restored(method, found)

    def _checkpoint(
        self, iteration: int, method: Method, drawn: Sequence[Sequence[Rollout]]
    ) -> None:
        folder = self.store.begin(iteration)
        write_drawn(folder, drawn)
        for name, group in self.groups.items():
            group.save(str(folder / name), STATE)
        state: KeptState = {
            "adapted": adapted_fields(self.built, method),
            "best_so_far": self.best.kept(),
            "constants": dict(self.constants),
        }
        self.settle()
        self.store.commit(iteration, state)

    def _export(self, name: str, metrics: Mapping[str, float]) -> None:
        self.groups["policy"].export(str(self.exports / name))
        self.complete(self.exports / name, metrics)
        if self.save_value_network and "critic" in self.groups:
            self.groups["critic"].export(str(self.exports / f"{name}_critic"))


def adapted_fields(built: Method, method: Method) -> dict[str, object]:
    """Name -> value of the fields by which ``adapt`` made ``method`` differ from ``built``.

    Raises:
        UserError: a field that differs holds no plain value.
    """
    values = {
        f.name: getattr(method, f.name) for f in dataclasses.fields(_as_dataclass(method)) if f.init
    }
    values = {
        k: v for k, v in values.items() if not _same(v, vars(built).get(k, dataclasses.MISSING))
    }
    for name, value in values.items():
        if not _is_plain(value):
            raise UserError(
                f"{method.card.name} adapts its {name}, a {type(value).__name__}: a checkpoint "
                "holds numbers, strings and tuples of them"
            )
    return values


def _as_dataclass(method: Method) -> DataclassValue:
    """Every method is a frozen dataclass, which a protocol cannot say."""
    return cast(DataclassValue, method)


def _same(value: object, other: object) -> bool:
    """Whether they are equal; a comparison that gives no bool, as of tensors, says no."""
    return value is other or (value == other) is True


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _restored(method: AnyMethod, found: Checkpoint) -> AnyMethod:
    """The method with the checkpoint's adapted fields; the others are this run's."""
    adapted = _adapted(cast(KeptState, found.state))
    known = {f.name for f in dataclasses.fields(_as_dataclass(method)) if f.init}
    unknown = sorted(adapted.keys() - known)
    if unknown:
        raise UserError(
            f"checkpoint {found.path} holds an adapted {', '.join(unknown)}, which "
            f"{method.card.name} does not have: go on with the version that wrote it, or choose "
            "another ckpt.output_dir"
        )
    values = {name: _as_field(value) for name, value in adapted.items()}
    return cast(AnyMethod, dataclasses.replace(_as_dataclass(method), **values))


def _adapted(state: KeptState) -> Mapping[str, object]:
    """Checkpoints used to hold all numbers of a method, and only ``kl_coef`` was taken up again."""
    if "adapted" in state:
        return state["adapted"]
    before = state.get("method", {})
    return {name: value for name, value in before.items() if name == "kl_coef"}


def _as_field(value: object) -> object:
    """JSON has lists alone, a frozen value has tuples."""
    return tuple(_as_field(item) for item in value) if isinstance(value, list) else value
