"""The plan of a run's actors: pure arithmetic, printed by ``--dry_run`` and reserved at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rto.rollout.engine import Transport
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Beside

COLOCATED_GPU_SHARE = 0.2
"""Share of a GPU that a colocated actor is accounted with; several must fit into one bundle."""


@dataclass(frozen=True)
class GroupSpec:
    """Resources of one actor group. Actor i sits in ``first_bundle + i * bundles_per_actor``."""

    num_actors: int
    num_cpus: float
    num_gpus: float
    bundle_set: str
    first_bundle: int = 0
    bundles_per_actor: int = 1


@dataclass(frozen=True)
class Plan:
    groups: Mapping[str, GroupSpec]
    bundles: Mapping[str, list[dict[str, float]]]
    device: Literal["cpu", "cuda"]
    colocated: bool
    beside_engine: Beside = "nothing"
    """What an engine shares its GPUs with."""

    @property
    def num_actors(self) -> int:
        return sum(spec.num_actors for spec in self.groups.values())

    def total(self, resource: str) -> float:
        return sum(b.get(resource, 0.0) for bundles in self.bundles.values() for b in bundles)


def plan_actors(
    config: RunConfig,
    *,
    device: Literal["cpu", "cuda"],
    num_cpus: float,
    online: bool,
    critic: bool,
    frozen: bool,
) -> Plan:
    """Which groups a run has and what each actor gets.

    On CUDA with ``train.colocate_all`` every group shares one set of GPU bundles, actor i of each
    group on bundle i. Otherwise each group has GPUs of its own. On CPU the groups share the
    machine's cores evenly; Ray's accounting there only keeps the actors on one node's resources.

    Raises:
        UserError: engines that share GPUs with ranks have one that no rank is on; as many ranks of
            the critic as share rows do not divide them all.
    """
    counts = {"policy": config.actor.num_ranks}
    if critic:
        counts["critic"] = config.critic.num_ranks
        config.check_shared("critic")
    if frozen:
        counts["scorer"] = config.ref.num_replicas
    if online:
        counts["engine"] = config.vllm.num_engines
    if device == "cpu":
        return _cpu_plan(config, counts, num_cpus)
    return _gpu_plan(config, counts)


def _cpu_plan(config: RunConfig, counts: dict[str, int], num_cpus: float) -> Plan:
    share = min(1.0, int(100 * num_cpus / sum(counts.values())) / 100)
    groups = {name: GroupSpec(n, share, 0.0, name) for name, n in counts.items()}
    bundles = {name: [{"CPU": share} for _ in range(n)] for name, n in counts.items()}
    return Plan(groups, bundles, "cpu", colocated=False)


def _gpu_plan(config: RunConfig, counts: dict[str, int]) -> Plan:
    width = config.vllm.tensor_parallel_size
    if not config.train.colocate_all:
        return _separate(counts, width)
    if "engine" in counts:
        _check_shared(config, counts["policy"])
    return _colocated(counts, width)


def _check_shared(config: RunConfig, ranks: int) -> None:
    """An engine takes its GPUs from policy ranks: beyond them it would fall on any. Over IPC each
    rank lends a buffer as well, whose memory only an engine on its GPU gives back."""
    engines, width = config.vllm.num_engines, config.vllm.tensor_parallel_size
    ipc = choose_transport(config, device="cuda", colocated=True) == "ipc"
    require(
        engines * width == ranks if ipc else engines * width <= ranks,
        f"vllm.num_engines {engines} x vllm.tensor_parallel_size {width} is {engines * width} GPUs "
        f"of engines, which share those of {ranks} policy ranks: use "
        f"{'as many' if ipc else 'no more'} (vllm.num_engines {max(1, ranks // width)}), or GPUs "
        "of their own (train.colocate_all false)",
    )


def _separate(counts: dict[str, int], width: int) -> Plan:
    """GPUs of its own for each group, ``width`` of them for an engine."""
    groups = {
        name: GroupSpec(n, 1.0, float(width if name == "engine" else 1), name)
        for name, n in counts.items()
    }
    bundles = {
        name: [{"CPU": 1.0, "GPU": spec.num_gpus}] * spec.num_actors
        for name, spec in groups.items()
    }
    return Plan(groups, bundles, "cuda", colocated=False)


def _colocated(counts: dict[str, int], width: int) -> Plan:
    """One set of GPUs for all groups, an engine on ``width`` of them."""
    gpus = max(n * (width if name == "engine" else 1) for name, n in counts.items())
    groups = {
        # The engine takes its devices from the ranks it shares them with: one actor may span
        # several bundles, which Ray's own accounting cannot express.
        name: GroupSpec(
            n,
            1.0,
            0.0 if name == "engine" else COLOCATED_GPU_SHARE,
            "shared",
            bundles_per_actor=width if name == "engine" else 1,
        )
        for name, n in counts.items()
    }
    bundle = {"CPU": float(len(counts)), "GPU": 1.0}
    return Plan(groups, {"shared": [dict(bundle) for _ in range(gpus)]}, "cuda", True, "ranks")


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
