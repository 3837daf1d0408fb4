"""What `rto plan` prints of time: the stages of an iteration, and how it grows with nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from rto.planning.cost import Iteration, iteration
from rto.planning.job import StageTime, Workload
from rto.planning.machine import Capacity
from rto.planning.memory import Setup
from rto.planning.scale import Row, Scaling, falls_below, scale
from rto.runs.planned import Planner
from rto.runs.timed import Timed, timed
from rto.tracking.console import figure, table

STAGES = ("generate", "score", "update", "sync", "checkpoint", "driver")
SCALED: Mapping[Scaling, str] = {
    "strong": "the same iteration on more nodes, seconds",
    "weak": "prompts and batch grow with the nodes, seconds",
}
SHARES = (0.9, 0.5)
"""Efficiencies below which a line says why."""


def print_time(setup: Setup, planner: Planner, capacity: Capacity) -> None:
    """
    Raises:
        UserError: see ``rto.runs.timed.timed``.
    """
    console = Console()
    found = timed(setup, planner, capacity)
    if isinstance(found, str):
        console.print(found, soft_wrap=True)
        return
    if found.compared:
        rows = [
            {"stage": each.stage, "run, s": each.measured, "model, s": each.modelled,
             "factor": each.factor}
            for each in found.compared
        ]  # fmt: skip
        console.print(table(rows, title=f"pace of {setup.config.plan.from_run}"))
    whole = iteration(found.job, found.rates, lag=found.lag)
    console.print(table(list(_stages(whole)), title=_title(found)))
    console.print(_told(whole, found), soft_wrap=True)
    if setup.config.plan.node_counts:
        for scaling, title in SCALED.items():
            _print_scaling(console, found, scaling, title)


def _title(found: Timed) -> str:
    job = found.job
    return (
        f"time of an iteration, {job.sequences:,} responses: prompts of {job.prompt_tokens:,.0f} "
        f"tokens, responses of {job.response_tokens:,.0f}, the longest {job.longest:,}"
    )


def _stages(whole: Iteration) -> Iterator[Mapping[str, object]]:
    total = sum(stage.seconds for stage in whole.stages)
    for stage in whole.stages:
        yield {
            "stage": stage.name,
            "seconds": _seconds(stage.seconds),
            "share": f"{stage.seconds / total:.0%}",
            "for": _parts(stage),
        }


def _parts(stage: StageTime) -> str:
    """What a stage is made of, the largest part first."""
    largest = sorted(stage.parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {_seconds(value)}" for name, value in largest)


def _told(whole: Iteration, found: Timed) -> str:
    pace = "at the pace of that run" if found.compared else "by a model, nothing was measured"
    beside = " (reward functions and servers not counted)" if _has_texts(found.job) else ""
    side = "; sampling goes on beside the rest" if found.lag and not found.job.shared else ""
    return (
        f"an iteration takes {_seconds(whole.seconds)} s, "
        f"{figure(whole.responses_per_second)} responses/s, {pace}{beside}{side}; its bound is "
        f"{whole.bound.name}: {whole.bound.bound}"
    )


def _has_texts(job: Workload) -> bool:
    reward = job.config.reward
    return bool(reward.func_path or reward.remote_url)


def _print_scaling(console: Console, found: Timed, scaling: Scaling, title: str) -> None:
    counts = found.job.config.plan.node_counts
    rows = scale(found.job, found.rates, counts, found.build, scaling=scaling, lag=found.lag)
    able = [row for row in rows if row.iteration is not None]
    if able:
        console.print(table([_cells(row) for row in able], title=title))
    for line in _lines(rows):
        console.print(line, soft_wrap=True)


def _cells(row: Row) -> Mapping[str, object]:
    assert row.iteration is not None
    now, loss = row.iteration, row.largest_loss
    return {
        "nodes": row.nodes,
        "GPUs": row.gpus,
        **{name: _seconds(now[name].seconds) for name in STAGES},
        "all": _seconds(now.seconds),
        "responses/s": figure(now.responses_per_second),
        "efficiency": f"{row.efficiency:.0%}",
        "most lost to": "" if loss is None else f"{loss.stage}: {loss.part}",
    }


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    """Where the efficiency falls below a share, and why; what cannot be."""
    able = [row for row in rows if row.iteration is not None]
    for share in SHARES:
        row = falls_below(able, share)
        if row is not None and row.largest_loss is not None:
            loss = row.largest_loss
            yield (
                f"below {share:.0%} at {row.nodes} nodes: {loss.stage}, {loss.part}, "
                f"{_seconds(loss.seconds)} s beyond its share"
            )
    for row in rows:
        if row.iteration is None:
            yield f"{row.nodes} nodes: {row.refused}"


def _seconds(value: float) -> str:
    return f"{value:,.1f}"
