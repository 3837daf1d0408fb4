"""What a run needs of each node that its actors are on, seen to before the first of them starts:
the models that they load, the run folder that ranks write to, and the versions of what computes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rto.cluster.groups import own_words
from rto.cluster.nodes import cluster_nodes
from rto.cluster.placement import Placement
from rto.errors import UserError, foreign, told
from rto.models.download import bring
from rto.tracking.phases import tell
from rto.tracking.run_folder import PACKAGES, versions

WRITERS = ("policy", "critic")
"""Groups that write checkpoints and exports to the run folder."""
COMPARED = ("python", "rto", "git_commit", *PACKAGES)
OPTIONAL = ("git_commit",)
"""Known where `rto` is a checkout."""
SHARED_SECONDS = 5.0
"""How long a network file system may take to show a new file on another node."""


@dataclass(frozen=True)
class NodeNeeds:
    """``models``: group -> the directories and hub ids that its actors load. ``folder``: where
    trained models are written; None for a run that trains none."""

    models: Mapping[str, Collection[str]] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Chore:
    """What one node has to see to. ``token`` is what the driver wrote to the folder."""

    models: tuple[str, ...] = ()
    folder: Path | None = None
    token: str = ""


@dataclass(frozen=True)
class NodeReport:
    """A node's answer."""

    versions: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


def prepare_nodes(placement: Placement, needs: NodeNeeds) -> None:
    """Have every node ready for its actors, or say which is not, and why.

    Hub models are downloaded on each node that will load them. Where actors are on other nodes
    than the driver's, those nodes must see the run folder as the driver does, and have the same
    versions of what computes.

    Raises:
        UserError: one line with the node, the name and the remedy.
    """
    if not any(needs.models.values()):
        return
    own = ray.get_runtime_context().get_node_id()
    others = dict(chores_of(placement, needs, own))
    mine = others.pop(own, None)
    with ExitStack() as stack:
        if needs.folder is not None and any(chore.folder for chore in others.values()):
            token = secrets.token_hex(8)
            stack.callback(_written(needs.folder, token).unlink)
            others = {node: replace(chore, token=token) for node, chore in others.items()}
        running = {_start(node, chore): node for node, chore in others.items()}
        for model in () if mine is None else mine.models:
            bring(model, tell)
        if running:
            _check_others(running)


def chores_of(placement: Placement, needs: NodeNeeds, own: str) -> dict[str, Chore]:
    """Node -> what it has to see to; ``own`` where actors are not bound to a node."""
    models: dict[str, set[str]] = {}
    writers: set[str] = set()
    for group in placement.plan.groups:
        for node in placement.nodes_of(group) or [own]:
            models.setdefault(node, set()).update(needs.models.get(group, ()))
            if group in WRITERS:
                writers.add(node)
    return {
        node: Chore(tuple(sorted(each)), needs.folder if node in writers else None)
        for node, each in models.items()
    }


def _written(folder: Path, token: str) -> Path:
    """A new file of the run folder, with the token in its name."""
    file = folder / f".node-check-{token}"
    file.touch()
    return file


def _start(node: str, chore: Chore) -> ObjectRef[NodeReport]:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return SEE_TO.options(scheduling_strategy=there).remote(chore)


def _check_others(running: Mapping[ObjectRef[NodeReport], str]) -> None:
    """Wait for the other nodes' answers, the first problem of any ends it."""
    addresses = {node.id: node.address for node in cluster_nodes()}
    tell(f"looking at {len(running)} other node{'s' * (len(running) > 1)}: models, versions")
    found: dict[str, Mapping[str, str]] = {}
    waiting = list(running)
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=1.0)
        for ref in ready:
            name = addresses.get(running[ref], running[ref])
            seen = _answer(name, ref)
            if seen.problem is not None:
                raise UserError(f"node {name}: {seen.problem}")
            found[f"{name} ({running[ref][:8]})"] = seen.versions
    problem = difference(compared_versions(), found)
    if problem is not None:
        raise UserError(problem)


def _answer(node: str, ref: ObjectRef[NodeReport]) -> NodeReport:
    remedy = "install the versions of this machine there, and look whether it is up (`ray status`)"
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise UserError(f"node {node}: {told(own_words(error))}; {remedy}") from error
    except RayError as error:
        raise UserError(f"node {node}: {told(error)}; {remedy}") from error


def see_to(chore: Chore) -> NodeReport:
    """On the node itself."""
    try:
        if chore.folder is not None:
            check_folder(chore.folder, chore.token)
        for model in chore.models:
            bring(model, print)
    except UserError as error:
        return NodeReport(problem=str(error))
    return NodeReport(compared_versions())


SEE_TO = ray.remote(num_cpus=0, max_retries=0)(see_to)


def check_folder(folder: Path, token: str) -> None:
    """
    Raises:
        UserError: it is not the folder that the driver wrote ``token`` to, or cannot be written to.
    """
    file = folder / f".node-check-{token}"
    deadline = time.monotonic() + SHARED_SECONDS
    with foreign(f"run folder {folder}", "let the user of Ray's processes read and write there"):
        while not file.is_file():
            if time.monotonic() > deadline:
                raise UserError(
                    f"run folder {folder} is not here what it is for the driver: choose a "
                    "ckpt.output_dir on storage that all nodes share"
                )
            time.sleep(0.1)
        _written(folder, secrets.token_hex(8)).unlink()


def compared_versions() -> dict[str, str]:
    """Of this process, without what a build says of its hardware: 2.11.0 for 2.11.0+cpu."""
    return {
        name: str(version).partition("+")[0]
        for name, version in versions().items()
        if name in COMPARED
    }


def difference(driver: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> str | None:
    """The first package that nodes have in other versions, and who; None where all are alike.

    What only the driver has, or only the nodes have, is no difference: only nodes sample and train.
    """
    for name in COMPARED:
        seen = _versions_of(name, driver, nodes)
        if len(set(seen.values())) > 1:
            by_version = {version: _who(seen, version) for version in sorted(set(seen.values()))}
            listed = "; ".join(f"{version} on {who}" for version, who in by_version.items())
            return f"the nodes differ in {name}: {listed}: install the same everywhere"
    return None


def _versions_of(
    name: str, driver: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Of one package by node, "none" where it is not; one that is optional only where it is."""
    seen = {node: found.get(name, "none") for node, found in nodes.items()}
    if name in driver and set(seen.values()) != {"none"}:
        seen = {"this machine": driver[name], **seen}
    if name in OPTIONAL:
        return {node: version for node, version in seen.items() if version != "none"}
    return seen


def _who(seen: Mapping[str, str], version: str) -> str:
    who = [node for node, found in seen.items() if found == version]
    more = f" and {len(who) - 3} more" if len(who) > 3 else ""
    return ", ".join(who[:3]) + more
