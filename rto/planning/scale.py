"""How an online run grows with its nodes, by the cost model: seconds, responses, what is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from rto.errors import UserError
from rto.planning.cost import Iteration, iteration
from rto.planning.job import Workload
from rto.planning.rates import Rates
from rto.planning.verdict import Build
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.sections.training import Frozen, Trained

Scaling = Literal["strong", "weak"]
"""Strong: the same iteration on more nodes. Weak: prompts and batch grow with the nodes, so that a
GPU has as much to do as before, and an optimizer step as many rows per rank; that is another
run."""

Section = TypeVar("Section", bound=Trained | Frozen)


@dataclass(frozen=True)
class Loss:
    """Seconds of one part beyond what it would take if it were shared out perfectly."""

    stage: str
    part: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """A number of nodes: its iteration, or why there is none."""

    nodes: int
    gpus: int
    iteration: Iteration | None
    efficiency: float = 0.0
    """Responses a second over those of the same nodes if they scaled perfectly."""
    largest_loss: Loss | None = None
    refused: str = ""


def base_nodes(job: Workload) -> int:
    """The nodes that a run fills as its settings are."""
    return job.machine.nodes_of(round(job.setup.plan.total("GPU")))


def scale(
    job: Workload,
    rates: Rates,
    nodes: Sequence[int],
    build: Build,
    *,
    scaling: Scaling,
    lag: int = 0,
) -> list[Row]:
    """A row for each number of nodes.

    Args:
        job: the run as its settings have it.
        build: what makes the setup of a changed configuration.
        lag: see ``rto.planning.cost.iteration``.
    """
    first = iteration(job, rates, lag=lag)
    return [_row(job, rates, count, build, scaling, lag, first) for count in nodes]


def _row(
    job: Workload,
    rates: Rates,
    nodes: int,
    build: Build,
    scaling: Scaling,
    lag: int,
    first: Iteration,
) -> Row:
    gpus = nodes * job.machine.per_node
    try:
        grown = scaled(job, nodes, build, scaling=scaling)
    except UserError as error:
        return Row(nodes, gpus, None, refused=str(error))
    factor = nodes / base_nodes(job)
    now = iteration(grown, rates, lag=lag)
    efficiency = now.responses_per_second / (factor * first.responses_per_second)
    ideal = 1.0 if scaling == "weak" else 1 / factor
    return Row(nodes, gpus, now, efficiency, largest_loss(first.parts, now.parts, ideal))


def largest_loss(
    first: Mapping[tuple[str, str], float], now: Mapping[tuple[str, str], float], ideal: float
) -> Loss | None:
    """The part that is furthest beyond ``ideal`` times what it was; None where none is."""
    lost = {key: value - ideal * first.get(key, 0.0) for key, value in now.items()}
    stage, part = max(lost, key=lambda key: lost[key])
    seconds = lost[stage, part]
    return Loss(stage, part, seconds) if seconds > 1e-9 else None


def scaled(job: Workload, nodes: int, build: Build, *, scaling: Scaling) -> Workload:
    """The run on so many nodes, every group in proportion.

    Raises:
        UserError: the groups do not divide so, or the batch does not over the ranks.
    """
    base = base_nodes(job)
    require(
        nodes % base == 0,
        f"the configuration fills {base} nodes: plan.nodes {nodes} is no multiple of that",
    )
    factor = nodes // base
    config = _on_nodes(job.config, factor, larger=factor if scaling == "weak" else 1)
    config.check_online(
        needs_critic=job.setup.critic is not None,
        needs_dpo=False,
        min_responses=config.rollout.n_samples_per_prompt,
    )
    return replace(job, setup=build(config), machine=replace(job.machine, nodes=nodes))


def _on_nodes(config: RunConfig, factor: int, *, larger: int) -> RunConfig:
    rollout, train = config.rollout, config.train
    return replace(
        config,
        actor=_more(config.actor, factor),
        critic=_more(config.critic, factor),
        ref=_more(config.ref, factor),
        vllm=replace(config.vllm, num_engines=config.vllm.num_engines * factor),
        rollout=replace(rollout, batch_size=rollout.batch_size * larger),
        train=replace(train, batch_size=train.batch_size * larger),
    )


def _more(section: Section, factor: int) -> Section:
    return replace(section, num_nodes=section.num_nodes * factor)


def falls_below(rows: Sequence[Row], share: float) -> Row | None:
    """The first row whose efficiency is less than ``share``, or that cannot be."""
    return next((row for row in rows if row.iteration is None or row.efficiency < share), None)
