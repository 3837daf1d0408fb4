"""The plan of a run's actors: pure arithmetic, printed by ``--dry_run`` and reserved at start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from rto.rollout.engine import Transport
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Beside

COLOCATED_GPU_SHARE = 0.2
"""Share of a GPU that a colocated actor is accounted with; several must fit into one bundle."""


@dataclass(frozen=True)
class GroupSpec:
    """Resources of one actor group. Actor i sits in ``bundles[i]`` of its set; in bundle i where
    there is no list."""

    num_actors: int
    num_cpus: float
    num_gpus: float
    bundle_set: str
    bundles: Sequence[int] = ()

    def bundle_of(self, rank: int) -> int:
        return self.bundles[rank] if self.bundles else rank


@dataclass(frozen=True)
class Plan:
    """Bundles by set, and the groups of actors that sit in them.

    ``nodes`` has, for a set, the number of the node that each of its bundles is on: those of one
    number are on one node, and each number is a node of its own. The bundles of a set that is not
    there may each be on any node.
    """

    groups: Mapping[str, GroupSpec]
    bundles: Mapping[str, list[dict[str, float]]]
    device: Literal["cpu", "cuda"]
    colocated: bool
    beside_engine: Beside = "nothing"
    """What an engine shares its GPUs with."""
    nodes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def num_actors(self) -> int:
        return sum(spec.num_actors for spec in self.groups.values())

    def total(self, resource: str) -> float:
        return sum(b.get(resource, 0.0) for bundles in self.bundles.values() for b in bundles)


@dataclass(frozen=True)
class NodeSpread:
    """Actors of a group: so many on each of so many nodes, rank by rank and node by node."""

    num_nodes: int
    per_node: int

    @property
    def num_actors(self) -> int:
        return self.num_nodes * self.per_node

    @property
    def nodes(self) -> list[int]:
        """The number of each actor's node."""
        return [rank // self.per_node for rank in range(self.num_actors)]


def plan_actors(
    config: RunConfig,
    *,
    device: Literal["cpu", "cuda"],
    num_cpus: float,
    online: bool,
    critic: bool,
    frozen: bool,
) -> Plan:
    """Which groups a run has, what each actor gets and which of them share a node.

    On CUDA with ``train.colocate_all`` every group shares one set of GPU bundles, actor i of a
    node on the i-th GPU that the run has there. Otherwise each group has GPUs of its own. On CPU
    the groups share the cores of a node, of which there are ``num_cpus``, evenly.

    Raises:
        UserError: engines that share GPUs with ranks have one that no rank is on, or one whose
            GPUs are on two nodes; as many ranks of the critic as share rows do not divide them all.
    """
    spreads = {"policy": NodeSpread(config.actor.num_nodes, config.actor.num_gpus_per_node)}
    if critic:
        spreads["critic"] = NodeSpread(config.critic.num_nodes, config.critic.num_gpus_per_node)
        config.check_shared("critic")
    if frozen:
        spreads["scorer"] = NodeSpread(config.ref.num_nodes, config.ref.num_gpus_per_node)
    engines = config.vllm.num_engines if online else 0
    if device == "cpu":
        return _cpu_plan(spreads, engines, num_cpus)
    if not config.train.colocate_all:
        return _separate(spreads, engines, config.vllm.tensor_parallel_size)
    if engines:
        _check_shared(config, spreads["policy"])
    return _colocated(spreads, engines, config.vllm.tensor_parallel_size)


def _cpu_plan(spreads: Mapping[str, NodeSpread], engines: int, num_cpus: float) -> Plan:
    num_nodes = max(spread.num_nodes for spread in spreads.values())
    on_one_node = sum(spread.per_node for spread in spreads.values())
    on_one_node += math.ceil(engines / num_nodes)
    share = min(1.0, int(100 * num_cpus / on_one_node) / 100)
    return _apart(spreads, engines, {"CPU": share}, {"CPU": share}, "cpu")


def _check_shared(config: RunConfig, policy: NodeSpread) -> None:
    """An engine takes its GPUs from policy ranks: beyond them it would fall on any. Over IPC each
    rank lends a buffer as well, whose memory only an engine on its GPU gives back."""
    engines, width = config.vllm.num_engines, config.vllm.tensor_parallel_size
    ranks = policy.num_actors
    ipc = choose_transport(config, device="cuda", colocated=True) == "ipc"
    require(
        engines * width == ranks if ipc else engines * width <= ranks,
        f"vllm.num_engines {engines} x vllm.tensor_parallel_size {width} is {engines * width} GPUs "
        f"of engines, which share those of {ranks} policy ranks: use "
        f"{'as many' if ipc else 'no more'} (vllm.num_engines {max(1, ranks // width)}), or GPUs "
        "of their own (train.colocate_all false)",
    )
    require(
        policy.per_node % width == 0,
        f"vllm.tensor_parallel_size {width} does not divide actor.num_gpus_per_node "
        f"{policy.per_node}, so that an engine would span two nodes: use a divisor of it",
    )


def _separate(spreads: Mapping[str, NodeSpread], engines: int, width: int) -> Plan:
    """GPUs of its own for each group, ``width`` of them for an engine."""
    one = {"CPU": 1.0, "GPU": 1.0}
    return _apart(spreads, engines, one, {"CPU": 1.0, "GPU": float(width)}, "cuda")


def _apart(
    spreads: Mapping[str, NodeSpread],
    engines: int,
    rank: Mapping[str, float],
    engine: Mapping[str, float],
    device: Literal["cpu", "cuda"],
) -> Plan:
    """A set of bundles per group, one for each actor."""
    asked = {name: (spread.num_actors, rank) for name, spread in spreads.items()}
    if engines:
        asked["engine"] = (engines, engine)
    return Plan(
        groups={
            name: GroupSpec(count, each["CPU"], each.get("GPU", 0.0), name)
            for name, (count, each) in asked.items()
        },
        bundles={name: [dict(each)] * count for name, (count, each) in asked.items()},
        device=device,
        colocated=False,
        nodes={name: spread.nodes for name, spread in spreads.items()},
    )


def _colocated(spreads: Mapping[str, NodeSpread], engines: int, width: int) -> Plan:
    """One set of GPUs for all groups: on each node as many as the largest group has there. Actor i
    of a group's node is on the i-th of them, an engine on those of ``width`` policy ranks."""
    num_nodes = max(spread.num_nodes for spread in spreads.values())
    per_node = [
        max(spread.per_node for spread in spreads.values() if spread.num_nodes > node)
        for node in range(num_nodes)
    ]
    first = [0, *accumulate(per_node)]
    seats = {
        name: [first[node] + i for node in range(spread.num_nodes) for i in range(spread.per_node)]
        for name, spread in spreads.items()
    }
    groups = {
        name: GroupSpec(len(seat), 1.0, COLOCATED_GPU_SHARE, "shared", seat)
        for name, seat in seats.items()
    }
    if engines:
        # The engine takes its devices from the ranks it shares them with: one actor may span
        # several bundles, which Ray's own accounting cannot express.
        groups["engine"] = GroupSpec(
            engines, 1.0, 0.0, "shared", seats["policy"][::width][:engines]
        )
    nodes = [node for node, count in enumerate(per_node) for _ in range(count)]
    here = Counter(seat for spec in groups.values() for seat in spec.bundles)
    bundles = [{"CPU": float(here[bundle]), "GPU": 1.0} for bundle in range(len(nodes))]
    return Plan(
        groups, {"shared": bundles}, "cuda", True, beside_engine="ranks", nodes={"shared": nodes}
    )


def takes_turns(config: RunConfig, plan: Plan) -> bool:
    """Whether engines give their memory to the ranks on their GPUs after each rollout."""
    return config.vllm.enable_sleep and plan.colocated


SERVED_PARTS = 4
"""In so many parts a reward server gets the responses, where ``rollout.scoring_parts`` is unset."""


def scoring_parts(config: RunConfig, plan: Plan, *, frozen: bool) -> int:
    """Parts in which the responses of an iteration are scored.

    Args:
        frozen: whether models score beside functions and servers.

    Raises:
        UserError: several, and models that get a GPU only when its engine is done, or a
            ``reward.on_failure`` that needs to see the whole iteration.
    """
    given, whole = config.rollout.scoring_parts, config.reward.on_failure == "drop_group"
    in_turn = frozen and takes_turns(config, plan)
    require(
        given in (None, 1) or not in_turn,
        f"rollout.scoring_parts is {given}: the models that score share GPUs with engines, which "
        "sleep only when all is sampled; leave it unset, or give the engines GPUs of their own "
        "(train.colocate_all false)",
    )
    require(
        given in (None, 1) or not whole,
        f"rollout.scoring_parts is {given}: reward.on_failure drop_group decides what is left of a "
        "whole iteration; leave rollout.scoring_parts unset, or take reward.on_failure stop",
    )
    if given is None:
        return SERVED_PARTS if config.reward.remote_url and not (in_turn or whole) else 1
    return given


def check_overlap(config: RunConfig, plan: Plan, *, frozen: bool) -> None:
    """
    Raises:
        UserError: what is to sample or score meanwhile has no room on its GPUs.
    """
    require(
        config.train.async_lag == 0 or not takes_turns(config, plan),
        f"train.async_lag is {config.train.async_lag}: engines that sleep while ranks on their "
        "GPUs train cannot sample then; give them GPUs of their own (train.colocate_all false)",
    )
    scoring_parts(config, plan, frozen=frozen)


def choose_transport(config: RunConfig, *, device: str, colocated: bool) -> Transport:
    """The transport that fits where the engines are; vLLM alone has others than the store."""
    if config.vllm.engine == "transformers":
        return "object_store"
    backend = config.vllm.sync_backend
    if backend != "auto":
        return backend
    if device == "cpu":
        return "object_store"
    return "ipc" if colocated else "nccl"
