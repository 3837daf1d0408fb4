"""The actors of a run: which processes they are, who watches them, and what another run keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from handles import Answers, Handle

from rto.cluster import build, groups
from rto.cluster.actors import TrainerSpec
from rto.cluster.build import Actors, Models
from rto.cluster.placement import Placement
from rto.cluster.plan import GroupSpec, Plan
from rto.errors import UserError
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, DeepSpeed
from rto.sections.training import Actor
from rto.types import Role

SPEC = TrainerSpec("policy", "m", total_steps=3)
CONFIG = RunConfig(ds=DeepSpeed(param_dtype="fp32"))
NUMBERS = {"policy": 2, "critic": 2, "scorer": 1, "engine": 1}


def plan(*, colocated: bool = False, **numbers: int) -> Plan:
    found = {name: GroupSpec(n, 0.5, 0.0, name) for name, n in {**NUMBERS, **numbers}.items() if n}
    return Plan(found, {}, "cuda" if colocated else "cpu", colocated)


@dataclass
class Machine:
    """Where processes are started and killed: a class of actors, as ``ray.remote`` gives it."""

    answers: Answers = field(default_factory=Answers)
    made: list[Handle] = field(default_factory=list)

    def options(self, **resources: Any) -> Machine:
        return self

    def remote(self) -> Handle:
        self.made.append(Handle(f"process {len(self.made)}"))
        return self.made[-1]

    @property
    def killed(self) -> list[str]:
        return [handle.name for handle in self.answers.killed]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Of every kind of actor; calls are answered at once."""
    found = Machine()
    for name in ("TRAINER", "SCORER", "ENGINE"):
        monkeypatch.setattr(build, name, found)
    for module in (build, groups):
        monkeypatch.setattr(module, "ray", found.answers)
    return found


def actors(plan: Plan, config: RunConfig = CONFIG) -> Actors:
    return Actors(config, Placement(plan, {}))


def names(group: Any) -> list[str]:
    return [handle.name for handle in group.group.actors]


def test_each_process_is_watched_under_its_group_and_rank(machine: Machine) -> None:
    made = actors(plan())
    made.start_trainers("policy", SPEC)
    made.start_scorers(Models({Role.REFERENCE: "r"}))
    assert {name: handle.name for name, handle in made.watch.actors.items()} == {  # pyright: ignore
        "policy[0]": "process 0", "policy[1]": "process 1", "scorer[0]": "process 2",
    }  # fmt: skip
    assert all(group.watch is made.watch for group in made.groups.values())


def test_engines_are_asked_what_a_transfer_failed_with(machine: Machine) -> None:
    made = actors(plan())
    made.start_trainers("policy", SPEC)
    made.start_engines("m", "nccl")
    made.watch._looked = -1e9
    made.watch.look()
    pings = {name: handle.calls[-1][0] for name, handle in made.watch.actors.items()}  # pyright: ignore
    assert pings["policy[0]"] == "__ray_ready__"
    assert pings["engine[0]"] == "tell_failure"


def test_the_ranks_are_given_what_the_drivers_file_adds(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"gradient_clipping": 0.5, "aio": {"block_size": 8}}')
    config = RunConfig(
        actor=Actor(max_norm=0.5), ds=DeepSpeed(param_dtype="fp32", config=str(file))
    )
    made = actors(plan(), config)
    made.start_trainers("policy", SPEC)
    specs = [call[1] for handle in machine.made for call in handle.calls if call[0] == "start"]
    assert [spec.engine_extras for spec in specs] == [{"aio": {"block_size": 8}}] * 2
    with pytest.raises(UserError, match=r"0.5 and critic.max_norm is 1.0"):
        made.start_trainers("critic", TrainerSpec("critic", "m", total_steps=3))


def test_starting_waits_for_nothing_and_waiting_tells_for_whom(machine: Machine) -> None:
    made, told = actors(plan()), list[str]()
    made.start_trainers("policy", SPEC)
    made.start_engines("m", "object_store")
    assert len(made.starting) == 2
    made.wait(told.append)
    assert told == ["loading policy, engine", "loading engine"]
    assert made.starting == []


@pytest.mark.parametrize(("critics", "share"), [(2, 4), (0, 2)])
def test_ranks_that_compute_at_the_same_time_share_the_cores(
    machine: Machine, critics: int, share: int
) -> None:
    made = actors(plan(critic=critics))
    made.start_trainers("policy", SPEC)
    (start,) = [call for call in machine.made[1].calls if call[0] == "start"]
    assert start[-1] == share


def test_colocated_engines_use_the_gpus_of_the_ranks_on_their_bundles(machine: Machine) -> None:
    """Four ranks, two engines of two GPUs."""
    config = RunConfig(vllm=VLLM(tensor_parallel_size=2), ds=DeepSpeed(param_dtype="fp32"))
    made = actors(plan(colocated=True, policy=4, engine=2), config)
    made.start_engines("m", "ipc")
    asked = [call for handle in machine.made for call in handle.calls if call[0] == "devices"]
    assert len(asked) == 4
    starts = [handle.calls[0] for handle in machine.made[:2]]
    assert [[gpus.answer for gpus in start[7:]] for start in starts] == [
        ["devices of process 2", "devices of process 3"],
        ["devices of process 4", "devices of process 5"],
    ]
    ranks = names(made.start_trainers("policy", SPEC))
    assert ranks == [f"process {2 + rank}" for rank in range(4)], "they were asked, not others"
    apart = actors(plan(policy=4))
    apart.start_trainers("policy", SPEC)
    apart.start_engines("m", "nccl")
    assert machine.made[-1].calls[0][6:] == ("nothing",)


def test_a_group_that_is_stopped_is_killed_and_not_missed(machine: Machine) -> None:
    made = actors(plan())
    made.start_trainers("policy", SPEC)
    made.start_scorers(Models(rewards=["r"]))
    made.stop("scorer")
    assert machine.killed == ["process 2"]
    assert list(made.groups) == ["policy"]
    assert list(made.watch.actors) == ["policy[0]", "policy[1]"]


def test_another_run_takes_the_processes_of_its_kinds_and_numbers(machine: Machine) -> None:
    """A critic's ranks may become a policy's; of another number they keep their process group."""
    first = actors(plan())
    for name in ("policy", "critic"):
        first.start_trainers(name, SPEC)
    first.start_scorers(Models(rewards=["r"]))
    second = first.renewed(CONFIG, Placement(plan(policy=2, scorer=2), {}))
    assert names(second.start_trainers("policy", SPEC)) == ["process 2", "process 3"]
    assert names(second.start_scorers(Models())) == ["process 5", "process 6"]
    assert sorted(second.watch.actors) == ["policy[0]", "policy[1]", "scorer[0]", "scorer[1]"]
    second.kill()
    assert sorted(machine.killed) == [f"process {i}" for i in range(7)], "idle ones too"
    assert second.watch.gate.closed


@pytest.mark.parametrize(("path", "kept"), [("m", True), ("other", False)])
def test_an_engine_serves_another_run_of_its_settings_alone(
    machine: Machine, path: str, kept: bool
) -> None:
    first = actors(plan())
    first.start_engines("m", "object_store")
    second = first.renewed(CONFIG, Placement(plan(), {}))
    assert names(second.start_engines(path, "object_store")) == [
        "process 0" if kept else "process 1"
    ]
    assert machine.killed == ([] if kept else ["process 0"])


def test_processes_that_rest_forget_their_models_but_engines_keep_theirs(machine: Machine) -> None:
    made = actors(plan(policy=1))
    made.start_trainers("policy", SPEC)
    made.start_scorers(Models(rewards=["r"]))
    made.start_engines("m", "object_store")
    made.rest()
    assert [("rest",) in handle.calls for handle in machine.made] == [True, True, False]


@pytest.mark.parametrize(("models", "any_"), [
    (Models(), False), (Models({Role.DPO: "d"}), True), (Models(rewards=["r"]), True),
])  # fmt: skip
def test_frozen_models_are_there_where_one_is_named(models: Models, any_: bool) -> None:
    assert bool(models) is any_
