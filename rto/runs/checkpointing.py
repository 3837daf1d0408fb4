"""What a run leaves behind: checkpoints to go on from, and the `last` and `best` exports."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NotRequired, Protocol, TypedDict, TypeVar, cast

from rto.cluster.calls import Trainers
from rto.crash import crash_point
from rto.errors import StorageFailed, Terminated, UserError, nearest
from rto.interrupt import GRACE_SECONDS, ending
from rto.protocols import Method
from rto.runs.best import EVAL, Best, BestSoFar
from rto.runs.drawn import write_drawn
from rto.storage import drafted
from rto.training.checkpoint import Checkpoint, CheckpointStore
from rto.types import Rollout

POLL_SECONDS = 0.2
STATE = "state"
"""Name of an engine's state inside a checkpoint's folder of its group."""

AnyMethod = TypeVar("AnyMethod", bound=Method)
Complete = Callable[[Path, Mapping[str, float]], None]
Settle = Callable[[], None]


class DataclassValue(Protocol):
    """Any dataclass: what the functions of ``dataclasses`` take."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class KeptState(TypedDict):
    """What a checkpoint holds of a run beside its engines."""

    constants: dict[str, float]
    best_so_far: NotRequired[BestSoFar]
    adapted: NotRequired[dict[str, object]]
    """The method's fields that the run changed."""
    method: NotRequired[dict[str, object]]
    """All numbers of the method: what older checkpoints hold in place of ``adapted``."""


def nothing_more(path: Path, metrics: Mapping[str, float]) -> None:
    return None


def nothing_open() -> None:
    return None


@dataclass(frozen=True)
class Draft:
    """A checkpoint whose ranks are still writing."""

    iteration: int
    state: KeptState


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
    behind: bool = False
    """Checkpoints are written while training goes on (``ckpt.async_write``). One is committed by
    the first call after all ranks have written it, the last one before the run ends."""
    grace: float = GRACE_SECONDS
    """Seconds that an iteration may take to end once a signal asks the run to."""
    warn: Callable[[str], None] = print
    """Hears once that the disk will be full."""
    _warned: bool = field(default=False, init=False)
    _open: Draft | None = field(default=None, init=False)
    _unsaved: tuple[int, Method, Sequence[Sequence[Rollout]]] | None = field(
        default=None, init=False
    )
    """What no checkpoint has of the last iteration."""

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
        ending.saving()
        self._unsaved = iteration, method, drawn
        with self._all_or_nothing():
            self._keep(iteration, method, metrics, drawn)
        ending.whole()

    @contextmanager
    def saving_on_signals(self) -> Iterator[None]:
        """Around the loop: a signal ends it with a checkpoint of the last whole iteration. One that
        is under way becomes that if it ends within ``grace`` seconds.

        Raises:
            Terminated: a signal came.
        """
        with ending.deferred(self.grace):
            try:
                yield
            except Terminated:
                if ending.is_whole:
                    self._save_unsaved()
                raise

    def _save_unsaved(self) -> None:
        ending.saving()
        with self._all_or_nothing():
            if self._unsaved is not None:
                self._checkpoint(*self._unsaved)
            self._wait_written()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """A checkpoint that fails leaves nothing: a full disk would stay full."""
        with ExitStack() as undo:
            undo.callback(self.store.discard)
            try:
                yield
            except StorageFailed as error:
                raise StorageFailed(f"{error}{self.store.asks()}") from error
            undo.pop_all()

    def _keep(
        self,
        iteration: int,
        method: Method,
        metrics: Mapping[str, float],
        drawn: Sequence[Sequence[Rollout]],
    ) -> None:
        """What is due after an iteration."""
        self._commit_written()
        due = self.save_steps >= 1 and (iteration + 1) % self.save_steps == 0
        is_best = self._judge(iteration, metrics, due=due)
        if is_best:
            self._export("best", metrics)
        ends = self._is_last(iteration) or self.stopped
        crash_point("run.before_checkpoint")
        if not (due or ends):
            return
        self._checkpoint(iteration, method, drawn)
        if ends:
            self._wait_written()
        crash_point("run.before_export")
        if is_best:
            self._link("best", "last")
        else:
            self._export("last", metrics)

    def _judge(self, iteration: int, metrics: Mapping[str, float], *, due: bool) -> bool:
        """Whether this iteration is the best so far."""
        before, key = self.best, self.best.key
        self._check_key(metrics)
        if key in metrics and (due or self._is_last(iteration) or key.startswith(EVAL)):
            self.best = before.judged(iteration, metrics[key])
        return self.best.step != before.step

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
        self._wait_written()
        folder = self.store.begin(iteration)
        with self.store.writing():
            write_drawn(folder, drawn)
        for name, group in self.groups.items():
            group.save(str(folder / name), STATE, behind=self.behind)
        state: KeptState = {
            "adapted": adapted_fields(self.built, method),
            "best_so_far": self.best.kept(),
            "constants": dict(self.constants),
        }
        crash_point("run.before_commit")
        self.settle()
        if self.behind:
            self._open = Draft(iteration, state)
        else:
            self.store.commit(iteration, state)
            self._warn_of_shortage()
        self._unsaved = None

    def _commit_written(self) -> None:
        """Make the open checkpoint the newest, if every rank has written its part."""
        draft = self._open
        if draft is None:
            return
        parts = [part for group in self.groups.values() for part in group.written()]
        whole = [part for part in parts if part is not None]
        if len(whole) == len(parts):
            self.store.commit(draft.iteration, draft.state, dict(ChainMap(*whole)))
            self._open = None
            self._warn_of_shortage()

    def _warn_of_shortage(self) -> None:
        shortage = "" if self._warned else self.store.shortage()
        if shortage:
            self._warned = True
            self.warn(shortage)

    def _wait_written(self) -> None:
        """Until no checkpoint is open."""
        self._commit_written()
        while self._open is not None:
            time.sleep(POLL_SECONDS)
            self._commit_written()

    def _export(self, name: str, metrics: Mapping[str, float]) -> None:
        self.groups["policy"].export(str(self.exports / name))
        self.complete(self.exports / name, metrics)
        if self._keeps_critic:
            self.groups["critic"].export(str(self.exports / f"{name}_critic"))

    def _link(self, name: str, as_name: str) -> None:
        """The same export under another name, without its files being there twice."""
        for suffix in ("", "_critic") if self._keeps_critic else ("",):
            replace_by_links(self.exports / f"{name}{suffix}", self.exports / f"{as_name}{suffix}")

    @property
    def _keeps_critic(self) -> bool:
        return self.save_value_network and "critic" in self.groups


def replace_by_links(source: Path, target: Path) -> None:
    """``target`` as a directory of ``source``'s files: links, where the disk has them."""
    with drafted(target) as draft:
        shutil.copytree(source, draft, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
