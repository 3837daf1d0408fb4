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
    columns = rng.integers(values.shape[1], size=(BOOTSTRAPS, values.shape[1]))
    return _interval(values, _resampled(values, columns, rng))


def difference(ours: np.ndarray, theirs: np.ndarray) -> Mean:
    """Mean of ours minus theirs, both [seeds, prompts] on the same prompts; the runs of the two
    methods are independent of each other, so theirs are resampled apart from ours."""
    rng = np.random.default_rng(0)
    prompts = ours.shape[1]
    if theirs.shape[1] != prompts:
        raise ValueError(f"{prompts} prompts against {theirs.shape[1]}: need the same")
    columns = rng.integers(prompts, size=(BOOTSTRAPS, prompts))
    gaps = _resampled(ours, columns, rng) - _resampled(theirs, columns, rng)
    low, high = np.percentile(gaps, [2.5, 97.5])
    return Mean(float(ours.mean() - theirs.mean()), (float(low), float(high)))


def _resampled(values: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of ``values`` [seeds, prompts] over the given prompts and resampled runs.

    Resampling n runs shows (n - 1) / n of the variance between runs: that part is scaled up. One
    run shows none of it.
    """
    seeds = len(values)
    widen = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
    means = np.array([values[:, picked].mean(1) for picked in columns])
    picks = rng.integers(seeds, size=(len(columns), seeds))
    centre = means.mean(1)
    return centre + widen * (np.take_along_axis(means, picks, 1).mean(1) - centre)


def win_rate(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Share of samples [..., samples] that beat their counterparts, ties as half -> [...]."""
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean(-1)


def _interval(values: np.ndarray, resampled: np.ndarray) -> Mean:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Mean(float(values.mean()), (float(low), float(high)))
