"""The results of the seeds as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from benchmarks.studies.scalar.arms import ARMS, MAIN
from benchmarks.studies.scalar.measures import Point, frontier
from benchmarks.studies.scalar.runs import RESPONSES, SHUFFLED, Outcome, Run, SeedResult
from benchmarks.studies.scalar.world import Settings
from rto.evaluation.statistics import bootstrap

MATCHED_KL = (0.05, 0.1, 0.2, 0.4)
RIVALS = ("dro", "sft_best")
Results = Sequence[SeedResult]


def tables(results: Results, settings: Settings) -> Iterator[str]:
    """Markdown of one architecture."""
    yield from _strengths(results, settings)
    yield from _matched(results, settings)
    yield from _inspected(results, settings)
    yield from _responses(results, settings)
    yield from _off_policy(results, settings)
    yield from _shuffled(results, settings)


def matched(results: Results, settings: Settings, *, arm: str, kl: float) -> np.ndarray | None:
    """The reward above the reference's that each seed reaches within ``kl`` [seeds]; None if some
    seed has no point as far from the reference as that."""
    found: list[float] = []
    for result in results:
        points = _points(result, settings, arm)
        if max(point.kl for point in points) < kl:
            return None
        start = result.start.reward
        found.append(frontier(points, start=start, kl=kl) - start)
    return np.array(found)


def _points(result: SeedResult, settings: Settings, arm: str) -> list[Point]:
    """Those of every strength."""
    return [
        outcome.point
        for run, outcome in result.outcomes.items()
        if (run.arm, run.responses, run.source) == (arm, settings.responses, "reference")
    ]


def gains(results: Results, run: Run) -> np.ndarray:
    """Reward above the reference's of each seed [seeds]."""
    return np.array([r.outcomes[run].point.reward - r.start.reward for r in results])


def _strengths(results: Results, settings: Settings) -> Iterator[str]:
    yield "\n### Reward and KL of each run\n"
    yield "Mean reward above the reference's / KL, at tau, beta or, for SFT, the share of updates."
    grid = [
        f"{tau:g} (SFT {share:g})"
        for tau, share in zip(settings.grid, settings.shares, strict=True)
    ]
    yield _header("arm", *grid)
    for name, arm in ARMS.items():
        strengths = settings.shares if arm.is_sft else settings.grid
        cells = [_gain_kl(results, Run(name, s, settings.responses)) for s in strengths]
        yield _row(name, *cells)


def _matched(results: Results, settings: Settings) -> Iterator[str]:
    names = [f"KL {kl:g}" for kl in MATCHED_KL]
    yield "\n### Reward at matched KL\n"
    yield "Mean reward above the reference's on the frontier of each seed."
    yield _header("arm", "nearest point", *names)
    for arm in ARMS:
        found = [matched(results, settings, arm=arm, kl=kl) for kl in MATCHED_KL]
        nearest = np.mean([min(p.kl for p in _points(r, settings, arm)) for r in results])
        cells = ("-" if x is None else f"{x.mean():.3f}" for x in found)
        yield _row(arm, f"KL {nearest:.2f}", *cells)
    for rival in RIVALS:
        yield f"\nThe same minus `{rival}`'s, paired by seed, with the bootstrap interval."
        yield _header("arm", *names)
        for arm in ARMS:
            if arm != rival:
                yield _row(
                    arm, *(_difference(results, settings, arm, rival, kl) for kl in MATCHED_KL)
                )


def _difference(results: Results, settings: Settings, arm: str, rival: str, kl: float) -> str:
    ours = matched(results, settings, arm=arm, kl=kl)
    theirs = matched(results, settings, arm=rival, kl=kl)
    return "-" if ours is None or theirs is None else str(bootstrap(ours - theirs))


def _inspected(results: Results, settings: Settings) -> Iterator[str]:
    yield "\n### Gradients, learned values and time, at strength 1"
    yield _header("arm", "SNR at the start", "SNR half way", "V error half way", "at the end", "ms")
    for arm in ARMS:
        run = Run(arm, 1.0, settings.responses)

        def mean(of: Callable[[Outcome], Sequence[float]], run: Run = run) -> list[float]:
            return np.array([of(result.outcomes[run]) for result in results]).mean(0).tolist()

        snr = [f"{x:.3f}" for x in mean(lambda outcome: outcome.signal_to_noise)]
        errors = [f"{x:.2f}" for x in mean(lambda outcome: outcome.value_error)] or ["-", "-"]
        (seconds,) = mean(lambda outcome: (outcome.seconds,))
        yield _row(arm, *snr, *errors, f"{1000 * seconds:.1f}")


def _responses(results: Results, settings: Settings) -> Iterator[str]:
    names = [f"N = {n}" for n in RESPONSES]
    yield "\n### Responses per prompt, at strength 1\n"
    yield "Mean reward above the reference's / KL; then the error of V by the estimators of RPO."
    yield _header("arm", *names)
    for arm in MAIN:
        yield _row(arm, *(_gain_kl(results, Run(arm, 1.0, n)) for n in RESPONSES))
    yield _header("estimator", *names)
    for name in results[0].partition_error:
        errors = [
            [r.partition_error[name][n] for r in results if n in r.partition_error[name]]
            for n in RESPONSES
        ]
        yield _row(name, *(f"{np.mean(x):.2f}" if x else "-" for x in errors))


def _off_policy(results: Results, settings: Settings) -> Iterator[str]:
    yield "\n### Answers of another policy, at strength 1\n"
    yield "Mean reward above the reference's / KL; the drop is that of the reward, paired by seed."
    yield _header("arm", "answers of the reference", "of the mismatched writer", "drop")
    for arm in MAIN:
        on = Run(arm, 1.0, settings.responses)
        off = Run(arm, 1.0, settings.responses, "off_policy")
        drop = bootstrap(gains(results, on) - gains(results, off))
        yield _row(arm, _gain_kl(results, on), _gain_kl(results, off), str(drop))


def _shuffled(results: Results, settings: Settings) -> Iterator[str]:
    yield "\n### Control: rewards shuffled within each prompt, at strength 1\n"
    yield "Mean reward above the reference's / KL; the difference is to `sft_all`, paired by seed."
    yield _header("arm", "rewards as they are", "shuffled", "shuffled minus SFT on all")
    sft = gains(results, Run("sft_all", 1.0, settings.responses))
    for arm in SHUFFLED:
        shuffled = Run(arm, 1.0, settings.responses, "shuffled")
        difference = bootstrap(gains(results, shuffled) - sft)
        real = Run(arm, 1.0, settings.responses)
        yield _row(arm, _gain_kl(results, real), _gain_kl(results, shuffled), str(difference))


def _gain_kl(results: Results, run: Run) -> str:
    kl = np.mean([result.outcomes[run].point.kl for result in results])
    return f"{gains(results, run).mean():+.3f} / {kl:.2f}"


def _header(*names: str) -> str:
    return "\n" + _row(*names) + "\n" + "|---" * len(names) + "|"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def as_json(results: Mapping[str, Results], settings: Settings) -> dict[str, object]:
    """All runs of each architecture, and the frontier of each arm."""
    return {
        architecture: {
            "runs": [
                {
                    "seed": seed,
                    **vars(run),
                    **outcome.point._asdict(),
                    "seconds": outcome.seconds,
                    "signal_to_noise": outcome.signal_to_noise,
                    "value_error": outcome.value_error,
                }
                for seed, result in enumerate(found)
                for run, outcome in result.outcomes.items()
            ],
            "start": [result.start._asdict() for result in found],
            "reward_at_kl": {
                arm: {
                    kl: None if (x := matched(found, settings, arm=arm, kl=kl)) is None else list(x)
                    for kl in MATCHED_KL
                }
                for arm in ARMS
            },
            "partition_error": [result.partition_error for result in found],
        }
        for architecture, found in results.items()
    }
