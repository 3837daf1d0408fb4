"""Actors of a run: created together, started at once, torn down together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle

from rto.cluster.actors import (
    Door,
    EngineActor,
    ScorerActor,
    TrainerActor,
    TrainerSpec,
    engine_settings,
)
from rto.cluster.groups import ActorGroup, Pending, Watch
from rto.cluster.placement import Placement
from rto.config import RunConfig
from rto.types import Role

Progress = Callable[[str], None]
"""Hears what is waited for."""


def silent(text: str) -> None:
    return None


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
    starting: list[Pending] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)
    policy_devices: list[Any] = field(default_factory=list)
    """References to the GPU ids of each policy rank, for the engines that share them."""
    idle: Idle = field(default_factory=dict)
    """A new group takes its processes from here, where there are some of its kind and number."""
    engine: tuple[object, ...] | None = None
    """The settings of the engines, running or idle: one process holds one engine all its life."""

    def start_trainers(self, name: str, spec: TrainerSpec) -> ActorGroup:
        group = self._create(name, TrainerActor)
        if name == "policy" and self.placement.plan.colocated:
            # Asked before `start`, which keeps an actor busy until its model is loaded.
            self.policy_devices = [actor.devices.remote() for actor in group.actors]
        ranks, plan = len(group), self.placement.plan
        share = sum(plan.groups[each].num_actors for each in TRAINED if each in plan.groups)
        meeting = group.actors[0].address.remote()
        arguments = [
            (spec, self.config, plan.device, rank, ranks, meeting, share) for rank in range(ranks)
        ]
        self.starting.append(group.start_each("start", arguments))
        return group

    def start_scorers(self, models: Models) -> ActorGroup:
        group = self._create("scorer", ScorerActor)
        arguments = (models.paths, list(models.rewards), self.config, self.placement.plan.device)
        self.starting.append(group.start("start", *arguments, len(group)))
        return group

    def start_engines(self, model_path: str, door: Door) -> ActorGroup:
        settings = engine_settings(model_path, self.config, door)
        if settings != self.engine:
            self._end_idle("engine")
        self.engine = settings
        group = self._create("engine", EngineActor)
        device = self.placement.plan.device
        arguments = [
            (model_path, self.config, door, device, rank, *self._engine_devices(rank))
            for rank in range(len(group))
        ]
        self.starting.append(group.start_each("start", arguments))
        return group

    def wait(self, progress: Progress = silent) -> None:
        """Until every actor that was started is ready; ``progress`` hears who is waited for.

        Raises:
            ActorLost: one of them failed to start.
        """
        while self.starting:
            progress(f"loading {', '.join(pending.group.name for pending in self.starting)}")
            self.starting.pop(0).get(timeout=self.config.ray.start_timeout)

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
        for group in self.groups.values():
            group.kill()
        for kind in {kind for kind, _ in self.idle}:
            self._end_idle(kind)

    def _end_idle(self, kind: str) -> None:
        for key in [key for key in self.idle if key[0] == kind]:
            for process in (process for crew in self.idle.pop(key) for process in crew):
                ray.kill(process)

    def _engine_devices(self, rank: int) -> list[Any]:
        """Colocated engines use the GPUs of the policy ranks that sit on their bundles."""
        width = self.config.vllm.tensor_parallel_size
        return self.policy_devices[rank * width : (rank + 1) * width]

    def _create(self, name: str, actor: Any) -> ActorGroup:
        spec = self.placement.plan.groups[name]
        crews = self.idle.get(_crew(name, spec.num_actors))
        handles = crews.pop() if crews else self._new(name, actor, spec.num_actors)
        for rank, handle in enumerate(handles):
            self.watch.add(f"{name}[{rank}]", handle)
        group = ActorGroup(name, handles, self.config.ray.actor_timeout, self.watch)
        self.groups[name] = group
        return group

    def _new(self, name: str, actor: Any, num_actors: int) -> list[ActorHandle]:
        options = (self.placement.options(name, rank) for rank in range(num_actors))
        return [actor.options(**each).remote() for each in options]


def _crew(name: str, num_actors: int) -> tuple[str, int]:
    return "trainer" if name in TRAINED else name, num_actors


def choose_door(config: RunConfig, *, device: str, colocated: bool) -> Door:
    """The weight-sync door that fits where the engines are; only vLLM has others than the store."""
    if config.vllm.engine == "transformers":
        return "object_store"
    backend = config.vllm.sync_backend
    if backend != "auto":
        return backend
    if device == "cpu":
        return "object_store"
    return "ipc" if colocated else "nccl"
