"""What a run measured, against what the cost model gives for that run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rto.errors import UserError
from rto.planning.cost import iteration
from rto.planning.job import Workload
from rto.planning.rates import STAGES, Rates
from rto.report.collect import RunRecord
from rto.sections.ranges import require

FARTHEST = 10.0
"""A stage that took so many times what the model gives was not on the card of the plan."""


@dataclass(frozen=True)
class Compared:
    """Median seconds of a stage in a run, and the model's."""

    stage: str
    measured: float
    modelled: float

    @property
    def factor(self) -> float:
        return self.measured / self.modelled


@dataclass(frozen=True)
class Seen:
    """Medians over a run's iterations, without the first, which warms up."""

    seconds: Mapping[str, float]
    """By stage, and of the ``driver``."""
    prompt_tokens: float
    response_tokens: float


def seen_in(run: RunRecord) -> Seen:
    """
    Raises:
        UserError: no online run, or it has not logged a whole iteration.
    """
    require(
        run.is_online,
        f"plan.from_run {run.path}: a run of `rto {run.about.get('command', run.kind)}`: name one "
        "of `rto train`",
    )
    seconds = {stage: _median(run, f"time/{stage}") for stage in STAGES}
    other = _median(run, "time/other_share") * _median(run, "time/iteration")
    response = _median(run, "response/length")
    scored = _median(run, "rate/score_tokens_per_s") * seconds["score"]
    prompt = scored / _median(run, "response/num") - response
    require(
        prompt > 0,
        f"plan.from_run {run.path}: rate/score_tokens_per_s and response/length do not go together",
    )
    return Seen({**seconds, "driver": other}, prompt, response)


def _median(run: RunRecord, name: str) -> float:
    _, values = run.column(name)
    if not values:
        raise UserError(
            f"plan.from_run {run.path}: its metrics.jsonl has no {name}: name a run that has done "
            "an iteration"
        )
    return statistics.median(values[1:] or values)


def compare(seen: Seen, job: Workload, rates: Rates) -> list[Compared]:
    """Each stage of the run beside the model's.

    Args:
        job: that run, on the card of the plan.

    Raises:
        UserError: a stage is so far from the model that the run was on another card.
    """
    job = replace(job, prompt_tokens=seen.prompt_tokens, response_tokens=seen.response_tokens)
    modelled = iteration(job, rates)
    rows = [Compared(name, value, modelled[name].seconds) for name, value in seen.seconds.items()]
    for row in rows:
        require(
            row.stage == "driver" or 1 / FARTHEST <= row.factor <= FARTHEST,
            f"plan.from_run: {row.stage} took {row.measured:.3g} s; on {job.machine.card.name}-"
            f"{job.machine.card.gib} the model gives {row.modelled:.3g} s: name a run that was on "
            "the card of plan.gpus",
        )
    return rows


def with_measured(rates: Rates, rows: Sequence[Compared]) -> Rates:
    """The rates, each stage at the pace of the run."""
    return replace(rates, measured={row.stage: row.factor for row in rows})
