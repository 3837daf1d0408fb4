"""A configuration -> the setup that a plan weighs: from config.json of its models alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from rto.cluster import launch
from rto.cluster.actors import Kind
from rto.cluster.build import Models
from rto.cluster.device import check_planned, run_device
from rto.cluster.plan import Plan, plan_actors
from rto.methods.reward_model import RewardModel
from rto.models.device import gpu_bytes, with_dtype
from rto.models.skeleton import Use
from rto.observe import OBSERVED
from rto.planning.machine import Capacity, planned_capacity
from rto.planning.memory import Setup
from rto.planning.shape import ModelShape, model_shape, trained_params
from rto.planning.states import TrainedModel
from rto.planning.verdict import Verdict, judge
from rto.protocols import Method, Output, PolicyMethod
from rto.registry import described
from rto.runs.check_models import with_engine
from rto.runs.offline import reference_models
from rto.runs.prepare import available_cpus, frozen_models
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Lora
from rto.types import Role

ROWS = {"demonstrations": 1, "pairs": 2, "rewards": 4}
"""Sequences of one row of stored feedback; of rated responses a usual number."""


def planned(command: str, config: RunConfig) -> tuple[RunConfig, Planner]:
    """The configuration with its device's dtype and its engine, and its planner: without tokenizer
    or data.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    config.check_actor()
    config = with_dtype(config, run_device(config))
    planner = planner_of(command, config)
    if command != "train":
        return config, planner
    config.check_online(
        needs_critic=Role.CRITIC in planner.roles,
        needs_dpo=Role.DPO in planner.roles,
        min_responses=planner.method.min_responses,
    )
    return with_engine(config, str(config.actor.model_name_or_path)), planner


def planner_of(command: str, config: RunConfig) -> Planner:
    """
    Raises:
        UserError: the method takes other settings, or this command does not train it.
    """
    if command == "reward":
        return Planner(command, RewardModel(), "score")
    mode = "online" if command == "train" else "offline"
    return Planner(command, described(config, mode=mode))


@dataclass(frozen=True)
class Planner:
    """What makes the setup of a settled configuration; each model is read once."""

    command: str
    method: Method
    kind: Kind = "policy"
    shape: Callable[[str, Use], ModelShape] = field(
        default_factory=lambda: functools.cache(model_shape)
    )
    params: Callable[[str, Use, Lora], tuple[int, int]] = field(
        default_factory=lambda: functools.cache(trained_params)
    )

    def __call__(self, config: RunConfig) -> Setup:
        online, roles = self.command == "train", self.roles
        path = str(config.actor.model_name_or_path)
        own = config.critic.model_name_or_path or path
        critic = (config.critic_path if online else own) if Role.CRITIC in roles else None
        models = self._models(config)
        use: Use = "new reward" if self.kind == "score" else "policy"
        return Setup(
            config=config,
            plan=self.plan(config, device=run_device(config), num_cpus=available_cpus(config)),
            policy=replace(self._trained(config, path, use), reference=self._beside(config, path)),
            critic=None if critic is None else self._trained(config, critic, "critic"),
            frozen=self._frozen(models),
            online=online,
            rows=1 if online else ROWS[self.method.card.feedback],
            entropy="entropy" in self.outputs,
        )

    def plan(self, config: RunConfig, *, device: Literal["cpu", "cuda"], num_cpus: float) -> Plan:
        """The run's actors, without a look at its models."""
        return plan_actors(
            config,
            device=device,
            num_cpus=num_cpus,
            online=self.command == "train",
            critic=Role.CRITIC in self.roles,
            frozen=bool(self._models(config)),
        )

    def _models(self, config: RunConfig) -> Models:
        models = frozen_models if self.command == "train" else reference_models
        return models(config, self.roles)

    @property
    def roles(self) -> frozenset[Role]:
        return self.method.roles | (OBSERVED if self.command == "train" else frozenset())

    @property
    def outputs(self) -> frozenset[Output]:
        return self.method.outputs if isinstance(self.method, PolicyMethod) else frozenset()

    def _trained(self, config: RunConfig, path: str, use: Use) -> TrainedModel:
        section = config.critic if use == "critic" else config.actor
        params, largest = self.params(path, use, config.ds.lora)
        return TrainedModel(
            self.shape(path, use),
            params,
            largest,
            section.num_ranks,
            checkpointing=section.gradient_checkpointing_enable,
        )

    def _beside(self, config: RunConfig, path: str) -> ModelShape | None:
        """The reference on each rank; none of its own where it is the base of the adapters."""
        reads = "reference_kl" in self.outputs
        if not reads or (config.ds.lora.rank > 0 and config.reference_path == path):
            return None
        return self.shape(str(config.reference_path), "policy")

    def _frozen(self, models: Models) -> tuple[ModelShape, ...]:
        policies = (self.shape(path, "policy") for path in dict.fromkeys(models.paths.values()))
        rewards = (self.shape(path, "reward") for path in dict.fromkeys(models.rewards))
        return (*policies, *rewards)


def weigh(config: RunConfig, planner: Planner) -> Verdict:
    """Whether a settled run fits the machine that it is planned for, or this one.

    Raises:
        UserError: it asks for more GPUs than there are, or ``plan.gpus`` names an unknown card.
    """
    check_planned(config, planner(config).plan)
    return judge(config, planner, capacity(config))


def capacity(config: RunConfig) -> Capacity:
    """The planned machine, or this one; of a cluster that is joined nothing is known here."""
    if config.plan.gpus is not None and run_device(config) == "cuda":
        found = planned_capacity(config.plan)
        for name in ("actor", "critic", "ref"):
            asked = getattr(config, name).num_gpus_per_node
            require(
                asked <= found.per_node,
                f"{name}.num_gpus_per_node is {asked} and a node of plan.gpus {config.plan.gpus} "
                f"has {found.per_node}: use fewer per node and more of {name}.num_nodes",
            )
        return found
    if launch.cluster_address(config.ray) is not None:
        return Capacity("the cluster", None, None, per_node=config.actor.num_gpus_per_node)
    memory = float(_machine_bytes())
    if run_device(config) == "cpu":
        return Capacity("this machine", memory, memory, per_node=1)
    gpus = config.actor.num_gpus_per_node
    return Capacity("this machine", gpu_bytes(), memory, per_node=gpus)


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
