"""What a run leaves behind, when, and what a resumed one takes up again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from local_group import NotingRank, trainers

from rto.cluster.calls import Trainers
from rto.errors import StorageFailed, Terminated, UserError
from rto.interrupt import ending
from rto.methods.base import PlainMethod
from rto.protocols import Card, Method
from rto.runs.best import Best, lower_is_better
from rto.runs.checkpointing import RunCheckpointer, replace_by_links
from rto.training.checkpoint import Checkpoint, CheckpointStore, find_damage
from rto.training.identity import Identity
from rto.training.writer import Fingerprint
from rto.types import ScoredBatch, TrainBatch

IDENTITY = Identity(method="m", settings={}, files={})


@dataclass(frozen=True)
class Adapting(PlainMethod):
    kl_coef: float = 0.1
    beta: float = 1.0
    card: Card = Card("m", "M", "none", "rewards", ("offline",))

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        raise NotImplementedError


@dataclass(frozen=True)
class Unadapted(PlainMethod):
    beta: float = 1.0
    card: Card = Card("m", "M", "none", "rewards", ("offline",))

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        raise NotImplementedError


def group(name: str) -> Trainers:
    return trainers(name, NotingRank())


@dataclass(frozen=True)
class Annealed(PlainMethod):
    """An extension's method: none of its adapted fields is called as those of this package."""

    temperature: float = 1.0
    phase: str = "early"
    bounds: tuple[float, float] = (0.0, 1.0)
    warm: bool = False
    extra: Any = None
    beta: float = 1.0
    card: Card = Card("m", "M", "none", "rewards", ("offline",))

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        raise NotImplementedError

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        return replace(
            self, temperature=self.temperature / 2, phase="late", bounds=(0.5, 0.5), warm=True
        )


def checkpointer(root: Path, **changes: Any) -> RunCheckpointer:
    plain = RunCheckpointer(
        store=CheckpointStore(root / "checkpoints", identity=IDENTITY, max_num=3),
        built=Adapting(),
        groups={"policy": group("policy")},
        exports=root,
        last_step=6,
        save_steps=-1,
    )
    return replace(plain, **changes)


def calls(kept: RunCheckpointer, name: str = "policy") -> list[tuple[str, ...]]:
    (rank,) = kept.groups[name].group.actors
    return rank.calls


def exports(kept: RunCheckpointer, name: str = "policy") -> list[str]:
    return [Path(args[0]).name for method, *args in calls(kept, name) if method == "export"]


def run(
    kept: RunCheckpointer, values: Mapping[int, float], key: str, steps: range = range(6)
) -> None:
    """Every step, with the metric in those of ``values``; ends where the checkpointer stops."""
    for step in steps:
        kept.after(step, Adapting(), {key: values[step]} if step in values else {"a/b": 1.0})
        if kept.stopped:
            return


def test_checkpoints_come_every_so_many_steps_and_after_the_last(tmp_path: Path) -> None:
    kept = checkpointer(tmp_path, save_steps=4)
    run(kept, {}, "a/b")
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_00000003", "step_00000005",
    ]  # fmt: skip
    assert exports(kept) == ["last", "last"]
    assert [method for method, *_ in calls(kept)] == ["save", "export"] * 2


def test_a_checkpoint_may_come_after_every_step(tmp_path: Path) -> None:
    kept = checkpointer(tmp_path, save_steps=1, last_step=3)
    run(kept, {}, "a/b", range(3))
    assert exports(kept) == ["last"] * 3


def test_every_group_saves_into_its_own_folder_of_the_checkpoint(tmp_path: Path) -> None:
    groups = {name: group(name) for name in ("policy", "critic")}
    kept = checkpointer(tmp_path, groups=groups, last_step=1)
    kept.after(0, Adapting(), {})
    draft = tmp_path / "checkpoints" / "tmp_00000000"
    for name in groups:
        assert ("save", str(draft / name), "state") in calls(kept, name)


def test_a_checkpoint_is_there_once_the_files_that_it_refers_to_are(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    folder = tmp_path / "checkpoints"
    kept = checkpointer(tmp_path, save_steps=2, last_step=4)
    kept.settle = lambda: seen.append(sorted(path.name for path in folder.glob("step_*")))
    run(kept, {}, "a/b", range(4))
    assert seen == [[], ["step_00000001"]]


@pytest.mark.parametrize(
    ("lower", "expected"),
    [(False, [1, 5]), (True, [1, 3])],
)
def test_best_is_chosen_at_each_evaluation(
    tmp_path: Path, lower: bool, expected: list[int]
) -> None:
    """Values 0.5, 0.5, 0.2, 0.9 after steps 1, 2, 3 and 5: an equal one is no better."""
    kept = checkpointer(tmp_path, best=Best("eval/x", lower))
    seen: list[int] = []
    for step, value in {1: 0.5, 2: 0.5, 3: 0.2, 5: 0.9}.items():
        before = exports(kept).count("best")
        kept.after(step, Adapting(), {"eval/x": value})
        seen += [step] * (exports(kept).count("best") - before)
    assert seen == expected
    assert kept.best.step == expected[-1]


def test_best_of_a_training_metric_is_chosen_among_the_saved(tmp_path: Path) -> None:
    """The highest, at step 0, is not saved; step 5 is no better than step 3."""
    kept = checkpointer(tmp_path, save_steps=2, best=Best("reward/mean"))
    run(kept, {0: 9.0, 1: 1.0, 2: 8.0, 3: 2.0, 4: 7.0, 5: 1.5}, "reward/mean")
    assert exports(kept) == ["best", "best", "last"]
    assert (kept.best.step, kept.best.value) == (3, 2.0)


def test_the_last_step_may_be_the_best_of_a_training_metric(tmp_path: Path) -> None:
    kept = checkpointer(tmp_path, save_steps=4, best=Best("reward/mean"))
    run(kept, {0: 9.0, 1: 1.0, 2: 8.0, 3: 2.0, 4: 7.0, 5: 2.5}, "reward/mean")
    assert (kept.best.step, kept.best.value) == (5, 2.5)
    assert exports(kept) == ["best", "best"]


def test_a_best_that_is_the_last_is_on_the_disk_once(tmp_path: Path) -> None:
    """Under both names, until the next one takes the place of either."""

    class Exporting(NotingRank):
        def export(self, folder: str) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            super().export(folder)
            (Path(folder) / "weights").write_text(f"weights {len(self.calls)}")

    groups = {name: trainers(name, Exporting()) for name in ("policy", "critic")}
    kept = checkpointer(
        tmp_path, groups=groups, save_value_network=True, save_steps=1, best=Best("reward/mean")
    )
    pairs = [
        tuple(tmp_path / f"{name}{suffix}" / "weights" for name in ("best", "last"))
        for suffix in ("", "_critic")
    ]
    kept.after(0, Adapting(), {"reward/mean": 1.0})
    assert [best.samefile(last) for best, last in pairs] == [True, True]
    kept.after(1, Adapting(), {"reward/mean": 0.5})
    assert [best.read_text() == last.read_text() for best, last in pairs] == [False, False]
    assert not list(tmp_path.glob("*.tmp"))


def test_files_are_copied_where_a_disk_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("rto.runs.checkpointing.os.link", refuse)
    source, target = tmp_path / "best", tmp_path / "last"
    source.mkdir()
    (source / "weights").write_text("new")
    target.mkdir()
    (target / "older").write_text("old")
    replace_by_links(source, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"weights": "new"}
    assert not (target / "weights").samefile(source / "weights")


@dataclass
class LateRank(NotingRank):
    """Has the file of a checkpoint on the disk when it is asked for it the third time."""

    folder: str = ""
    asked: int = 0
    error: str = ""

    def save(self, folder: str, tag: str, *, behind: bool = False) -> None:
        assert behind
        super().save(folder, tag)
        Path(folder).mkdir(exist_ok=True)
        self.folder, self.asked = folder, 0

    def written(self) -> dict[str, Fingerprint] | None:
        if self.error:
            raise OSError(self.error)
        self.asked += 1
        path = Path(self.folder) / "part"
        if self.asked < 3:
            return None
        path.write_bytes(b"part")
        return {str(path): {"size": 4, "sha256": hashlib.sha256(b"part").hexdigest()}}


def late(root: Path, *ranks: LateRank, **changes: Any) -> RunCheckpointer:
    """A policy and a critic of such a rank each."""
    first, critic = ranks or (LateRank(), LateRank())
    groups = {"policy": trainers("policy", first), "critic": trainers("critic", critic)}
    return checkpointer(root, groups=groups, behind=True, **changes)


def test_a_checkpoint_that_is_written_behind_the_run_is_there_once_its_files_are(
    tmp_path: Path,
) -> None:
    """What the rollouts' files are flushed for is settled when it begins."""
    seen: list[str] = []
    kept = late(tmp_path, save_steps=1, settle=lambda: seen.append("settled"))
    kept.after(0, Annealed(), {})
    assert seen == ["settled"]
    kept.save_steps = -1
    for step in (1, 2):
        kept.after(step, Adapting(), {})
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["tmp_00000000"]
    kept.after(3, Adapting(), {})
    found = kept.store.latest()
    assert found is not None
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000000"]
    assert (found.path / "critic" / "part").read_bytes() == b"part"
    assert (find_damage(found.path), seen) == (None, ["settled"])


def test_a_checkpoint_waits_for_its_slowest_rank(tmp_path: Path) -> None:
    kept = late(tmp_path, LateRank(), LateRank(asked=9), save_steps=1)
    kept.after(0, Adapting(), {})
    kept.groups["critic"].group.actors[0].asked = 9  # pyright: ignore[reportAttributeAccessIssue]
    kept.save_steps = -1
    for step, there in ((1, False), (2, False), (3, True)):
        kept.after(step, Adapting(), {})
        assert (kept.store.latest() is not None) is there


def test_a_checkpoint_waits_for_the_one_before_it_and_the_run_for_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rto.runs.checkpointing.POLL_SECONDS", 0.0)
    kept = late(tmp_path, save_steps=1, last_step=3)
    seen: list[list[str]] = []
    for step in range(3):
        kept.after(step, Adapting(), {})
        seen.append(sorted(path.name for path in (tmp_path / "checkpoints").iterdir()))
    assert seen == [
        ["tmp_00000000"],
        ["step_00000000", "tmp_00000001"],
        ["step_00000000", "step_00000001", "step_00000002"],
    ]


def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    full = LateRank()
    kept = late(tmp_path, full, LateRank(), save_steps=1)
    kept.after(0, Adapting(), {})
    full.error = "No space left on device"
    with pytest.raises(OSError, match="No space left"):
        kept.after(1, Adapting(), {})
    assert not list((tmp_path / "checkpoints").glob("step_*"))


def test_a_run_stops_when_patience_is_over_and_saves_there(tmp_path: Path) -> None:
    kept = checkpointer(tmp_path, best=Best("eval/x", patience=2))
    run(kept, {0: 1.0, 1: 0.5, 2: 2.0, 3: 1.9, 4: 2.0, 5: 9.0}, "eval/x")
    assert kept.stopped
    assert exports(kept) == ["best", "best", "last"]
    found = kept.store.latest()
    assert found is not None
    assert found.step == 4


def test_a_resumed_run_knows_its_best_and_how_long_it_waited(tmp_path: Path) -> None:
    best = Best("eval/x", patience=3)
    whole = checkpointer(tmp_path / "whole", best=best)
    values = {0: 1.0, 1: 0.5, 2: 0.9, 3: 0.8, 4: 5.0}
    run(whole, values, "eval/x")
    first = checkpointer(tmp_path / "parts", best=best, save_steps=3)
    run(first, values, "eval/x", range(3))
    second = checkpointer(tmp_path / "parts", best=best, save_steps=3)
    found = second.store.latest()
    assert found is not None
    second.resume(Adapting(), found)
    assert second.best == Best("eval/x", patience=3, value=1.0, step=0, waited=2)
    run(second, values, "eval/x", range(3, 6))
    assert second.best == whole.best
    assert exports(whole).count("best") == 1
    assert exports(second).count("best") == 0


def test_a_run_that_chooses_by_another_metric_chooses_anew(tmp_path: Path) -> None:
    first = checkpointer(tmp_path, best=Best("eval/x"))
    run(first, {5: 3.0}, "eval/x")
    found = first.store.latest()
    assert found is not None
    for other in (Best("eval/y"), Best("eval/x", lower=True)):
        second = checkpointer(tmp_path, best=other)
        second.resume(Adapting(), found)
        assert second.best == other


def saved(root: Path, built: Method, method: Method) -> Checkpoint:
    """The checkpoint of a run that was built with one method and ended with another."""
    kept = checkpointer(root, built=built, last_step=1)
    kept.after(0, method, {})
    found = kept.store.latest()
    assert found is not None
    return found


def test_resuming_loads_every_group(tmp_path: Path) -> None:
    groups = {name: group(name) for name in ("policy", "critic")}
    first = checkpointer(tmp_path, groups=groups, last_step=1)
    first.after(0, Adapting(kl_coef=0.7), {})
    found = first.store.latest()
    assert found is not None
    second = checkpointer(tmp_path, groups={name: group(name) for name in groups})
    assert second.resume(Adapting(), found) == Adapting(kl_coef=0.7)
    for name in groups:
        assert calls(second, name) == [("load", str(found.path / name), "state")]
    assert exports(first, "critic") == []


def test_whatever_a_method_adapts_survives_a_resume(tmp_path: Path) -> None:
    """Of any name and plain type; what was not adapted is this run's."""
    adapted = Annealed().adapt({}).adapt({})
    assert adapted == Annealed(0.25, "late", (0.5, 0.5), True)
    found = saved(tmp_path, Annealed(), adapted)
    kept = found.state["adapted"]
    assert isinstance(kept, dict)
    assert kept.keys() == {"temperature", "phase", "bounds", "warm"}
    resumed = checkpointer(tmp_path, built=Annealed(beta=3.0)).resume(Annealed(beta=3.0), found)
    assert resumed == replace(adapted, beta=3.0)
    assert isinstance(resumed.bounds, tuple)
    assert resumed.adapt({}).temperature == 0.125


def test_what_an_earlier_run_adapted_is_kept_by_the_next_checkpoint_too(tmp_path: Path) -> None:
    found = saved(tmp_path, Annealed(), Annealed(temperature=0.25))
    second = checkpointer(tmp_path, built=Annealed(), last_step=2)
    second.after(1, second.resume(Annealed(), found), {})
    later = second.store.latest()
    assert later is not None
    assert (later.step, later.state["adapted"]) == (1, {"temperature": 0.25})


def test_a_method_that_adapts_nothing_comes_back_as_this_run_has_it(tmp_path: Path) -> None:
    found = saved(tmp_path, Unadapted(beta=9.0), Unadapted(beta=9.0))
    assert checkpointer(tmp_path, built=Unadapted()).resume(Unadapted(), found) == Unadapted(
        beta=1.0
    )


def test_an_adapted_field_that_the_method_does_not_have_is_refused(tmp_path: Path) -> None:
    found = saved(tmp_path, Annealed(), Annealed(temperature=0.5))
    said = f"checkpoint {found.path} holds an adapted temperature, which m does not have: "
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        checkpointer(tmp_path, built=Unadapted()).resume(Unadapted(), found)
    assert "\n" not in str(caught.value)


def test_an_adapted_field_that_no_checkpoint_can_hold_is_refused(tmp_path: Path) -> None:
    adapted = replace(Annealed(), extra=torch.ones(2))
    with pytest.raises(UserError, match="m adapts its extra, a Tensor: a checkpoint holds numbers"):
        saved(tmp_path, Annealed(extra=torch.zeros(2)), adapted)


def test_an_old_checkpoints_coefficient_is_taken_up_again(tmp_path: Path) -> None:
    """They held all numbers of a method, of which kl_coef alone came back."""
    found = saved(tmp_path, Adapting(), Adapting())
    kept = {name: value for name, value in found.state.items() if name != "adapted"}
    old = replace(found, state={**kept, "method": {"kl_coef": 0.7, "beta": 9.0}})
    assert checkpointer(tmp_path).resume(Adapting(), old) == Adapting(kl_coef=0.7, beta=1.0)
    without = replace(found, state={**kept, "method": {"beta": 9.0}})
    assert checkpointer(tmp_path).resume(Unadapted(), without) == Unadapted()


def test_a_checkpoint_that_says_nothing_of_a_best_leaves_the_choice_to_this_run(
    tmp_path: Path,
) -> None:
    first = checkpointer(tmp_path, last_step=1)
    first.after(0, Adapting(), {})
    found = first.store.latest()
    assert found is not None
    state = {name: value for name, value in found.state.items() if name != "best_so_far"}
    second = checkpointer(tmp_path, best=Best("eval/x"))
    second.resume(Adapting(), replace(found, state=state))
    assert second.best == Best("eval/x")


def test_a_value_network_is_exported_where_asked_for(tmp_path: Path) -> None:
    groups = {name: group(name) for name in ("policy", "critic")}
    kept = checkpointer(tmp_path, groups=groups, save_value_network=True, last_step=1)
    kept.after(0, Adapting(), {})
    assert exports(kept, "critic") == ["last_critic"]


def test_a_run_without_a_critic_exports_none_though_asked(tmp_path: Path) -> None:
    kept = checkpointer(tmp_path, save_value_network=True, last_step=1)
    kept.after(0, Adapting(), {})
    assert exports(kept) == ["last"]


@pytest.mark.parametrize("other", [{"reward_mean": 0.5}, {}])
def test_other_constants_of_the_training_set_are_refused(
    tmp_path: Path, other: dict[str, float]
) -> None:
    """In both directions: also where one of the two runs has none."""
    own = {"reward_mean": 0.25}
    for name, saved, going_on in (("a", own, other), ("b", other, own)):
        first = checkpointer(tmp_path / name, constants=saved, last_step=1)
        first.after(0, Adapting(), {})
        found = first.store.latest()
        assert found is not None
        checkpointer(tmp_path / name, constants=saved).resume(Adapting(), found)
        said = re.escape(f"constants {saved} of its training set, this run has {going_on}")
        with pytest.raises(UserError, match=said):
            checkpointer(tmp_path / name, constants=going_on).resume(Adapting(), found)


def test_an_export_is_completed_with_the_metrics_of_its_step(tmp_path: Path) -> None:
    done: list[tuple[str, float]] = []

    def complete(path: Path, metrics: Mapping[str, float]) -> None:
        done.append((path.name, metrics["eval/mean"]))

    kept = checkpointer(tmp_path, best=Best("eval/mean"), complete=complete, last_step=2)
    kept.after(0, Adapting(), {"eval/mean": 3.0})
    kept.after(1, Adapting(), {"eval/mean": 2.0})
    assert done == [("best", 3.0), ("last", 2.0)]


def test_a_metric_that_nobody_logs_is_named_at_once(tmp_path: Path) -> None:
    kept = checkpointer(tmp_path, best=Best("reward/maen"))
    with pytest.raises(UserError, match="'reward/maen', which this run does not log: did you mean"):
        kept.after(0, Adapting(), {"reward/mean": 1.0})
    checkpointer(tmp_path, best=Best("policy/loss"), key_known=True).after(0, Adapting(), {})


def test_a_metric_that_was_there_once_may_be_missing_later(tmp_path: Path) -> None:
    kept = checkpointer(tmp_path, best=Best("policy/loss"))
    kept.after(0, Adapting(), {"policy/loss": 1.0})
    kept.after(1, Adapting(), {"a/b": 1.0})
    assert kept.key_known


def test_a_checkpoint_is_plain_json(tmp_path: Path) -> None:
    """A best that does not exist yet is null, not -Infinity."""
    kept = checkpointer(tmp_path, last_step=1, best=Best("eval/x"))
    kept.after(0, Adapting(), {})
    text = (tmp_path / "checkpoints" / "step_00000000" / "state.json").read_text()
    state = json.loads(text, parse_constant=lambda name: pytest.fail(name))["state"]
    assert state["best_so_far"]["value"] is None


@pytest.mark.parametrize(
    ("key", "mode", "expected"),
    [
        ("eval/nll_per_token", "auto", True),
        ("sft/loss", "auto", True),
        ("eval/perplexity", "auto", True),
        ("eval/accuracy", "auto", False),
        ("loss/mean", "auto", False),
        ("glossary/closeness", "auto", False),
        ("eval/accuracy", "min", True),
        ("sft/loss", "max", False),
    ],
)
def test_which_way_is_better(key: str, mode: str, expected: bool) -> None:
    assert lower_is_better(key, mode) is expected


class FullRank(NotingRank):
    """Its disk is full from the second save on."""

    def save(self, folder: str, tag: str, *, behind: bool = False) -> None:
        Path(folder).mkdir(parents=True)
        (Path(folder) / tag).write_bytes(bytes(1 << 20))
        if self.calls:
            raise StorageFailed("the disk is full: 3 bytes are free")
        super().save(folder, tag)


def test_a_checkpoint_without_room_leaves_the_older_one_and_says_what_it_needs(
    tmp_path: Path,
) -> None:
    kept = checkpointer(tmp_path, groups={"policy": trainers("policy", FullRank())}, save_steps=1)
    kept.after(0, Adapting(), {})
    said = r"^the disk is full: 3 bytes are free; the last checkpoint has 1\.0 MiB$"
    with pytest.raises(StorageFailed, match=said):
        kept.after(1, Adapting(), {})
    (left,) = (tmp_path / "checkpoints").iterdir()
    assert left.name == "step_00000000"
    assert find_damage(left) is None


def test_a_disk_that_will_be_full_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    kept = checkpointer(tmp_path, save_steps=1, warn=said.append)
    kept.after(0, Adapting(), {})
    assert said == []
    monkeypatch.setattr(CheckpointStore, "shortage", lambda self: "little room")
    for step in (1, 2):
        kept.after(step, Adapting(), {})
    assert said == ["little room"]


def test_an_export_may_be_a_link(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "best", tmp_path / "elsewhere"
    for folder, text in ((source, "new"), (elsewhere, "theirs")):
        folder.mkdir()
        (folder / "weights").write_text(text)
    (tmp_path / "last").symlink_to(elsewhere)
    replace_by_links(source, tmp_path / "last")
    assert (tmp_path / "last" / "weights").read_text() == "new"
    assert (elsewhere / "weights").read_text() == "theirs"


@pytest.fixture
def clean() -> Iterator[None]:
    yield
    ending.reset()


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("behind", [False, True])
def test_a_signal_between_two_iterations_saves_the_last_one(tmp_path: Path, behind: bool) -> None:
    groups = {"policy": trainers("policy", LateRank() if behind else NotingRank())}
    kept = checkpointer(tmp_path, groups=groups, behind=behind)

    @kept.saving_on_signals()
    def loop() -> None:
        kept.after(0, Adapting(), {})
        ending.changing()
        kept.after(1, Adapting(kl_coef=0.7), {})
        assert not list((tmp_path / "checkpoints").glob("*"))
        ending.ask(signal.SIGTERM)
        ending.check()

    with pytest.raises(Terminated):
        loop()
    found = kept.store.latest()
    assert found is not None
    assert (found.step, kept.resume(Adapting(), found).kl_coef) == (1, 0.7)
    assert exports(kept) == []


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("saved", [False, True])
def test_a_signal_saves_no_half_iteration_and_nothing_twice(tmp_path: Path, saved: bool) -> None:
    kept = checkpointer(tmp_path, save_steps=1 if saved else -1, grace=0.001)

    @kept.saving_on_signals()
    def loop() -> None:
        kept.after(0, Adapting(), {})
        if not saved:
            ending.changing()
        ending.ask(signal.SIGTERM)
        time.sleep(0.01)
        ending.check()

    with pytest.raises(Terminated):
        loop()
    assert [method for method, *_ in calls(kept)].count("save") == saved
