"""Layouts on a Ray cluster whose nodes are processes of this machine and whose GPUs are numbers.

As a script, given a number of nodes: starts them and a head, has the run's own code reserve each
layout of ``LAYOUTS`` that is for so many and make its actors, of a class that only tells where it
is, and prints what they said as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
from ray.cluster_utils import Cluster as SimulatedCluster
from ray.util.placement_group import PlacementGroup, placement_group_table

from rto.cluster import build, launch, placement
from rto.cluster.build import Actors
from rto.cluster.device import run_device
from rto.cluster.node_checks import NodeNeeds
from rto.cluster.nodes import Node, cluster_nodes
from rto.cluster.plan import Plan, plan_actors
from rto.cluster.session import session
from rto.errors import UserError
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig

SMALL, LARGE = 2, 16
"""Numbers of nodes of the clusters."""
GPUS = 8
CPUS = 64
MIB = 2**20


@dataclass(frozen=True)
class Layout:
    """A run's flags, on so many nodes with so many GPUs each beside a head that has none.

    ``critic`` and ``frozen``: whether the method has such actors. ``only``: the ranks of each group
    that are made, where not all of them are.
    """

    nodes: int
    gpus: int
    flags: str
    critic: bool = True
    frozen: bool = True
    only: Sequence[int] | None = None

    @property
    def config(self) -> RunConfig:
        given = ["--vllm.engine=vllm", "--train.batch_size=384", *self.flags.split()]
        return parse_run("train", given).config

    def plan(self, *, num_cpus: float = CPUS) -> Plan:
        config = self.config
        device = "cpu" if config.train.device == "cpu" else "cuda"
        return plan_actors(
            config, device=device, num_cpus=num_cpus, online=True,
            critic=self.critic, frozen=self.frozen,
        )  # fmt: skip


def roles(nodes: int, gpus: int) -> str:
    """As many GPUs for the policy, the critic and the scorers."""
    return " ".join(
        f"--{name}.num_nodes={nodes} --{name}.num_gpus_per_node={gpus}"
        for name in ("actor", "critic", "ref")
    )


def engines(count: int, width: int) -> str:
    return f"--vllm.num_engines={count} --vllm.tensor_parallel_size={width}"


APART = "--train.colocate_all=false"
LAYOUTS = {
    "1x1 colocated": Layout(1, 1, f"{roles(1, 1)} {engines(1, 1)}"),
    "1x8 colocated, engines of 4": Layout(
        1, 8, f"{roles(1, 8)} {engines(2, 4)}", critic=False, frozen=False
    ),
    "1x8 apart": Layout(
        1, 8, f"{APART} --actor.num_gpus_per_node=4 --ref.num_gpus_per_node=2 {engines(1, 2)}",
        critic=False,
    ),
    "2x8 colocated": Layout(
        2, 8, f"{roles(2, 8)} {engines(4, 4)}", critic=False, only=(0, 3, 8, 15)
    ),
    "2x4 of 2x8 colocated": Layout(
        2, 8, f"{roles(2, 4)} {engines(4, 2)}", critic=False, only=(0, 3, 4, 7)
    ),
    "2x8 apart": Layout(
        2, 8, f"{APART} --actor.num_nodes=2 --actor.num_gpus_per_node=4 "
        f"--ref.num_gpus_per_node=2 --critic.num_gpus_per_node=2 {engines(2, 2)}",
        only=(0, 1, 4, 7),
    ),
    "2 nodes of CPUs": Layout(
        2, 0, f"--train.device=cpu {roles(2, 2)} {engines(2, 1)}", critic=False, frozen=False
    ),
    "16x8 colocated": Layout(
        16, 8, f"{roles(16, 8)} {engines(16, 8)}", critic=False, frozen=False, only=(0, 15, 127)
    ),
    "8x8 for the policy, 8x8 for engines": Layout(
        16, 8, f"{APART} {roles(8, 8)} {engines(16, 4)}", critic=False, frozen=False,
        only=(0, 15, 63),
    ),
}  # fmt: skip
"""What there is and what is asked: it fits."""

IMPOSSIBLE = {
    "one GPU too many": Layout(1, 8, f"{APART} {roles(1, 4)} {engines(1, 1)}", critic=False),
    "a node too many": Layout(2, 8, f"{roles(3, 8)} {engines(3, 8)}"),
    "nodes of fewer GPUs": Layout(2, 8, f"{roles(1, 16)} {engines(16, 1)}"),
    "an engine wider than a node": Layout(2, 8, f"{APART} {engines(1, 16)}", critic=False),
    "an engine over two nodes": Layout(2, 6, f"{roles(2, 6)} {engines(3, 4)}"),
    "fewer engines than ranks": Layout(1, 8, f"{roles(1, 8)} {engines(4, 1)}"),
    "no GPU at all": Layout(2, 0, f"{roles(1, 1)} {engines(1, 1)}"),
}


class Seat:
    """An actor that tells where it is."""

    def where(self) -> tuple[str, list[int]]:
        return ray.get_runtime_context().get_node_id(), [int(gpu) for gpu in ray.get_gpu_ids()]

    def devices(self) -> list[str]:
        return [str(gpu) for gpu in ray.get_gpu_ids()]


@contextmanager
def simulated(nodes: int) -> Iterator[SimulatedCluster]:
    """A head without GPUs and so many nodes with ``GPUS``; none begins a worker before it needs
    one."""
    few: dict[str, Any] = {"num_cpus": CPUS, "object_store_memory": 80 * MIB}
    lazy = {"prestart_worker_first_driver": False, "enable_worker_prestart": False}
    # The agents of the nodes serve no dashboard, and take half as long to start without it.
    ray._private.utils.check_dashboard_dependencies_installed = lambda: False  # pyright: ignore
    head = {**few, "num_gpus": 0, "include_dashboard": False, "_system_config": lazy}
    cluster = SimulatedCluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    try:
        for _ in range(nodes):
            cluster.add_node(**few, num_gpus=GPUS, wait=False)
        cluster.wait_for_nodes(timeout=120)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def part_of(nodes: Sequence[Node], layout: Layout) -> list[Node]:
    """The head, and as much of the others as the layout is for."""
    head = [node for node in nodes if not node.total.get("GPU")]
    others = [node for node in nodes if node.total.get("GPU")][: layout.nodes]
    have = {"CPU": float(CPUS), "GPU": float(layout.gpus)}
    if layout.gpus == 0:
        head = []
    return [*head, *(replace(node, total=have, free=have) for node in others)]


def seats(layout: Layout) -> dict[str, Any]:
    """Where the layout's actors are, by what they say themselves, and Ray of its bundles."""
    found = placement.reserve(layout.plan(), timeout=30)
    actors = Actors(layout.config, found)
    try:
        told: dict[str, Any] = {}
        for name, spec in found.plan.groups.items():
            chosen = [rank for rank in layout.only or range(spec.num_actors)]
            ranks = [rank for rank in chosen if rank < spec.num_actors]
            if layout.only is None:
                handles = actors._group(name, cast(Any, build.TRAINER)).actors
            else:
                handles = [
                    cast(Any, build.TRAINER).options(**found.options(name, rank)).remote()
                    for rank in ranks
                ]
            told[name] = {
                rank: where
                for rank, where in zip(
                    ranks, ray.get([each.where.remote() for each in handles]), strict=True
                )
            }
        if layout.only is None:
            shared = actors._engine_devices(found.plan.groups["engine"].num_actors)
            told["engine's GPUs"] = [ray.get(list(each)) for each in shared]
        tables = {
            name: [node for _, node in sorted(_on_nodes(group).items())]
            for name, group in found.groups.items()
        }
        return {"seats": told, "bundles": tables, "planned": found.nodes}
    finally:
        actors.kill()
        placement.release(found)


def _on_nodes(group: PlacementGroup) -> dict[int, str]:
    """By Ray's account: bundle -> node."""
    return placement_group_table(group)["bundles_to_node_id"]


def refused(layout: Layout) -> str:
    """What is said of a layout that cannot be; empty where it was reserved."""
    try:
        placement.release(placement.reserve(layout.plan(), timeout=1))
    except UserError as error:
        return str(error)
    return ""


def looked_at(layout: Layout, folder: Path) -> list[str]:
    """What is said of a model that is whole on the layout's node, and then is not."""
    model, said = folder / "model", list[str]()
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    needs = NodeNeeds({"policy": [str(model)]}, folder)
    for missing in ([], ["model.safetensors"]):
        for name in missing:
            (model / name).unlink()
        try:
            with session(layout.config, layout.plan(), logs=folder, needs=needs):
                said.append("ready")
        except UserError as error:
            said.append(str(error))
    return [*said, *(path.name for path in folder.glob(".node-check-*"))]


def main(nodes: int, folder: Path) -> Mapping[str, Any]:
    with simulated(nodes) as cluster:
        config = replace(RunConfig(), ray=replace(RunConfig().ray, address=cluster.address))
        device = run_device(config)
        launch.start(config.ray, device=device, num_actors=1, log_dir=folder)
        everything = cluster_nodes()
        build.TRAINER = cast(Any, ray.remote(Seat))
        found: dict[str, Any] = {
            "device": device,
            "cores": launch.joined_cpus(str(config.ray.address)),
        }
        for name, layout in {**LAYOUTS, **IMPOSSIBLE}.items():
            if (layout.nodes > SMALL) is not (nodes > SMALL):
                continue
            placement.cluster_nodes = partial(part_of, everything, layout)
            found[name] = seats(layout) if name in LAYOUTS else refused(layout)
        if nodes == SMALL:
            small = LAYOUTS["1x1 colocated"]
            placement.cluster_nodes = partial(part_of, everything, small)
            found["looked at"] = looked_at(small, folder)
        found["head"] = [node.id for node in everything if not node.total.get("GPU")]
        found["heavy"] = sorted({"vllm", "deepspeed", "flash_attn"} & set(sys.modules))
        return found


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(main(int(sys.argv[1]), Path(place))))
