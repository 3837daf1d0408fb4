"""Means with intervals: over prompts, and over seeds and prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Mean:
    """A mean with its 95% bootstrap interval."""

    mean: float
    ci95: tuple[float, float]

    @property
    def significant(self) -> bool:
        """The interval does not hold 0."""
        low, high = self.ci95
        return low > 0 or high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.ci95[0]:+.3f}, {self.ci95[1]:+.3f}]"


def bootstrap(values: np.ndarray) -> Mean:
    """The mean of ``values`` [N] and the percentile interval of resampled means."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(values), size=(BOOTSTRAPS, len(values)))
    return _interval(values, values[picks].mean(1))


def bootstrap_runs(values: np.ndarray) -> Mean:
    """The mean of ``values`` [seeds, prompts]: runs and prompts are both resampled, so what differs
    between runs of one method widens the interval as what differs between prompts does."""
    rng = np.random.default_rng(0)
    seeds, prompts = values.shape
    runs = rng.integers(seeds, size=(BOOTSTRAPS, seeds))
    columns = rng.integers(prompts, size=(BOOTSTRAPS, prompts))
    resampled = np.array([values[r][:, c].mean() for r, c in zip(runs, columns, strict=True)])
    return _interval(values, resampled)


def difference(ours: np.ndarray, theirs: np.ndarray) -> Mean:
    """Mean of ours minus theirs, both [seeds, prompts] on the same prompts; the runs of the two
    methods are independent of each other, so theirs are resampled apart from ours."""
    rng = np.random.default_rng(0)
    prompts = ours.shape[1]
    if theirs.shape[1] != prompts:
        raise ValueError(f"{prompts} prompts against {theirs.shape[1]}: need the same")
    columns = rng.integers(prompts, size=(BOOTSTRAPS, prompts))

    def resampled(values: np.ndarray) -> np.ndarray:
        runs = rng.integers(len(values), size=(BOOTSTRAPS, len(values)))
        return np.array([values[r][:, c].mean() for r, c in zip(runs, columns, strict=True)])

    gaps = resampled(ours) - resampled(theirs)
    low, high = np.percentile(gaps, [2.5, 97.5])
    return Mean(float(ours.mean() - theirs.mean()), (float(low), float(high)))


def win_rate(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Share of samples [..., samples] that beat their counterparts, ties as half -> [...]."""
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean(-1)


def _interval(values: np.ndarray, resampled: np.ndarray) -> Mean:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Mean(float(values.mean()), (float(low), float(high)))
