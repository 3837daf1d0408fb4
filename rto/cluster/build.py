"""Actors of a run: created together, started at once, torn down together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import ray
from ray import ObjectRef
from ray.actor import ActorClass, ActorHandle

from rto.cluster.actors import (
    EngineActor,
    ScorerActor,
    TrainerActor,
    TrainerSpec,
    engine_settings,
)
from rto.cluster.calls import Engines, Scorers, Trainers
from rto.cluster.groups import ActorGroup, Pending, Watch, remote
from rto.cluster.placement import Placement
from rto.rollout.engine import Transport
from rto.sections.deepspeed_file import engine_extras
from rto.sections.run_config import RunConfig
from rto.types import Role

Progress = Callable[[str], None]
"""Hears what is waited for."""


def silent(text: str) -> None:
    return None


Actor = TypeVar("Actor")
TRAINER = ray.remote(TrainerActor)
SCORER = ray.remote(ScorerActor)
ENGINE = ray.remote(EngineActor)

TRAINED = ("policy", "critic")
"""Groups that compute at the same time, in updates and in scoring."""

Idle = dict[tuple[str, int], list[Sequence[ActorHandle]]]
"""Processes of former runs, by what they are ("trainer", "scorer", "engine") and how many they are:
the ranks of a model keep their process group."""


@dataclass(frozen=True)
class Models:
    """What the frozen actors load."""

    paths: Mapping[Role, str] = field(default_factory=dict)
    rewards: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.paths or self.rewards)


@dataclass
class Actors:
    """The groups of a run by name: policy, critic, scorer, engine.

    Starting one waits for nothing: what an actor needs to know of another travels as a reference.
    """

    config: RunConfig
    placement: Placement
    groups: dict[str, ActorGroup] = field(default_factory=dict)
    starting: list[Pending[None]] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)
    idle: Idle = field(default_factory=dict)
    """A new group takes its processes from here, where there are some of its kind and number."""
    engine: tuple[object, ...] | None = None
    """The settings of the engines, running or idle: one process holds one engine all its life."""

    def start_trainers(self, name: str, spec: TrainerSpec) -> Trainers:
        shared_by = self.config.ds.sequence_parallel_size
        trainers, plan = Trainers(self._group(name, TRAINER), shared_by), self.placement.plan
        # Read here: the nodes of the ranks need not have the file.
        extras = engine_extras(self.config, "critic" if spec.kind == "critic" else "actor")
        spec = replace(spec, engine_extras=extras)
        share = sum(plan.groups[each].num_actors for each in TRAINED if each in plan.groups)
        self.starting.append(trainers.start(spec, self.config, plan.device, share))
        return trainers

    def start_scorers(self, models: Models) -> Scorers:
        scorers, device = Scorers(self._group("scorer", SCORER)), self.placement.plan.device
        self.starting.append(scorers.start(models.paths, list(models.rewards), self.config, device))
        return scorers

    def start_engines(self, model_path: str, transport: Transport) -> Engines:
        plan = self.placement.plan
        settings = engine_settings(model_path, self.config, transport, plan.beside_engine)
        if settings != self.engine:
            self._end_idle("engine")
        self.engine = settings
        engines = Engines(self._group("engine", ENGINE))
        gpus = self._engine_devices(len(engines))
        self.starting.append(
            engines.start(model_path, self.config, transport, plan.device, plan.beside_engine, gpus)
        )
        return engines

    def wait(self, progress: Progress = silent) -> None:
        """Until every actor that was started is ready; ``progress`` hears who is waited for.

        Raises:
            ActorLost: one of them failed to start.
        """
        device = self.placement.plan.device
        while self.starting:
            progress(f"loading {', '.join(pending.group.name for pending in self.starting)}")
            self.starting.pop(0).get(timeout=self.config.ray.start_seconds(device))

    def renewed(self, config: RunConfig, placement: Placement) -> Actors:
        """For another run: its groups begin with the processes of this one's."""
        idle = {key: list(crews) for key, crews in self.idle.items()}
        for name, group in self.groups.items():
            idle.setdefault(_crew(name, len(group)), []).append(group.actors)
        return Actors(config, placement, idle=idle, engine=self.engine)

    def rest(self) -> None:
        """Let the processes forget the run's models; waits for nothing."""
        for name, group in self.groups.items():
            if name != "engine":
                for actor in group.actors:
                    actor.rest.remote()

    def stop(self, name: str) -> None:
        """End a group that is no longer needed."""
        group = self.groups.pop(name)
        for rank in range(len(group)):
            self.watch.remove(f"{name}[{rank}]")
        group.kill()

    def kill(self) -> None:
        """End all processes; when this returns no thread waits for one of them."""
        self.watch.gate.close()
        for group in self.groups.values():
            group.kill()
        for kind in {kind for kind, _ in self.idle}:
            self._end_idle(kind)
        self.watch.gate.wait_until_left()

    def _end_idle(self, kind: str) -> None:
        for key in [key for key in self.idle if key[0] == kind]:
            for process in (process for crew in self.idle.pop(key) for process in crew):
                ray.kill(process)

    def _engine_devices(self, engines: int) -> list[Sequence[ObjectRef[list[str]]]]:
        """References to the GPU ids of the policy ranks on each engine's bundles, where they share
        them. The ranks' processes are made for that; an empty one holds no memory of a GPU."""
        if not self.placement.plan.colocated:
            return [()] * engines
        width = self.config.vllm.tensor_parallel_size
        ranks = Trainers(self._group("policy", TRAINER)).devices().refs
        return [ranks[index * width : (index + 1) * width] for index in range(engines)]

    def _group(self, name: str, actor: ActorClass[Actor]) -> ActorGroup:
        """The group's processes, made where they are not there yet."""
        return self.groups[name] if name in self.groups else self._create(name, actor)

    def _create(self, name: str, actor: ActorClass[Actor]) -> ActorGroup:
        spec = self.placement.plan.groups[name]
        crews = self.idle.get(_crew(name, spec.num_actors))
        handles = crews.pop() if crews else self._new(name, actor, spec.num_actors)
        for rank, handle in enumerate(handles):
            ping = remote(EngineActor.tell_failure) if name == "engine" else None
            self.watch.add(f"{name}[{rank}]", handle, ping)
        group = ActorGroup(name, handles, self.config.ray.actor_timeout, self.watch)
        self.groups[name] = group
        return group

    def _new(self, name: str, actor: ActorClass[Actor], num_actors: int) -> list[ActorHandle]:
        options = (self.placement.options(name, rank) for rank in range(num_actors))
        return [cast(ActorHandle, actor.options(**each).remote()) for each in options]


def _crew(name: str, num_actors: int) -> tuple[str, int]:
    return "trainer" if name in TRAINED else name, num_actors
