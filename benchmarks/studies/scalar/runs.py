"""Which runs a study makes, and what each of them measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from rich.progress import track
from torch import Tensor

from benchmarks.studies.scalar.arms import ARMS, MAIN, Trainee, rows_of, train
from benchmarks.studies.scalar.measures import (
    ESTIMATORS,
    Point,
    evaluate,
    frontier,
    learned_error,
    partition_error,
    signal_to_noise,
)
from benchmarks.studies.scalar.world import Settings, World, true_values

Source = Literal["reference", "off_policy", "shuffled"]
SHUFFLED = ("rpo", "rpo_ref", "dro")
RESPONSES = (1, 2, 4, 8)
TUNING_KL = 0.2


@dataclass(frozen=True)
class Run:
    """``source``: rated answers of the reference, of the mismatched writer, or those of the
    reference with their rewards shuffled within each prompt."""

    arm: str
    strength: float
    responses: int
    source: Source = "reference"


@dataclass(frozen=True)
class Outcome:
    """``signal_to_noise`` before the first update and half way, ``value_error`` half way and at the
    end: only of an inspected run. ``seconds`` of CPU time per update."""

    point: Point
    seconds: float
    signal_to_noise: tuple[float, ...] = ()
    value_error: tuple[float, ...] = ()


@dataclass(frozen=True)
class SeedResult:
    """``start`` is the reference; ``partition_error`` by estimator and responses per prompt, and of
    the best constant under "constant"."""

    start: Point
    outcomes: Mapping[Run, Outcome]
    partition_error: Mapping[str, Mapping[int, float]]


def plan(settings: Settings) -> Iterator[Run]:
    """Every strength at the N of ``settings``; other N and other data at strength 1."""
    for name, arm in ARMS.items():
        for strength in settings.shares if arm.is_sft else settings.grid:
            yield Run(name, strength, settings.responses)
    for name in MAIN:
        for responses in RESPONSES:
            if responses != settings.responses:
                yield Run(name, 1.0, responses)
        yield Run(name, 1.0, settings.responses, "off_policy")
    for name in SHUFFLED:
        yield Run(name, 1.0, settings.responses, "shuffled")


def perform(
    run: Run, world: World, settings: Settings, *, lr: float, seed: int, values: Tensor | None
) -> Outcome:
    """With ``values``, V* of the first training prompts, the run is inspected."""
    arm = ARMS[run.arm]
    off_policy = run.source == "off_policy"
    data = rows_of(
        world.off_policy if off_policy else world.rated,
        "shuffled" if run.source == "shuffled" else arm.rows,
        each=settings.responses if off_policy else settings.most_responses,
        responses=run.responses,
        seed=seed,
    )
    trainee = Trainee.start(arm.method(run.strength), world, seed=seed)
    updates = max(1, round(settings.updates * (run.strength if arm.is_sft else 1)))
    steps = train(trainee, data, rows=settings.rows, lr=lr, updates=updates, seed=seed)
    signal: list[float] = []
    errors: list[float | None] = []
    spent = [0.0]
    for done, seconds in enumerate(steps):
        spent.append(seconds)
        if values is not None and done in (0, updates // 2):
            signal.append(
                signal_to_noise(
                    trainee, data, rows=settings.rows, count=settings.gradients, seed=seed + 1
                )
            )
        if values is not None and done in (updates // 2, updates):
            errors.append(learned_error(trainee, data, values))
    return Outcome(
        point=evaluate(trainee.policy, world, seed=seed),
        seconds=spent[-1] / updates,
        signal_to_noise=tuple(signal),
        value_error=tuple(error for error in errors if error is not None),
    )


def tune(world: World, settings: Settings, *, seed: int) -> dict[str, float]:
    """The learning rate of each arm: of ``lrs`` that with the most reward within ``TUNING_KL`` at
    strength 1, in a world that no result is of."""
    start = evaluate(world.reference, world, seed=seed).reward
    found: dict[str, float] = {}
    for name in track(ARMS, "learning rates"):
        run = Run(name, 1.0, settings.responses)
        rewards = {
            lr: frontier(
                [perform(run, world, settings, lr=lr, seed=seed, values=None).point],
                start=start,
                kl=TUNING_KL,
            )
            for lr in settings.lrs
        }
        found[name] = max(rewards, key=lambda lr: rewards[lr])
    return found


def all_runs(
    world: World, settings: Settings, *, lrs: Mapping[str, float], seed: int
) -> SeedResult:
    values = true_values(world, settings, tau=1.0, seed=seed + 1)
    outcomes: dict[Run, Outcome] = {}
    for run in track(list(plan(settings)), f"runs of seed {seed}"):
        inspected = run == Run(run.arm, 1.0, settings.responses)
        outcomes[run] = perform(
            run, world, settings, lr=lrs[run.arm], seed=seed, values=values if inspected else None
        )
    start = evaluate(world.reference, world, seed=seed)
    return SeedResult(start, outcomes, partition_errors(world, settings, values))


def partition_errors(
    world: World, settings: Settings, values: Tensor
) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for responses in RESPONSES:
        data = rows_of(
            world.rated, "all", each=settings.most_responses, responses=responses, seed=0
        )
        for name, method in ESTIMATORS.items():
            if responses > 1 or method.estimator != "loo":
                error = partition_error(method, data, values)
                found.setdefault(name, {})[responses] = error
    constant = float(values.std(correction=0))
    return {**found, "constant": dict.fromkeys(RESPONSES, constant)}
