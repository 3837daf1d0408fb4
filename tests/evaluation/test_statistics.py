"""Intervals that hold what they should, and are as wide as they should be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rto.evaluation.statistics import Mean, bootstrap, bootstrap_runs, difference, win_rate


def width(mean: Mean) -> float:
    return mean.ci95[1] - mean.ci95[0]


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    """4 * 1.96 * std / sqrt(N): by hand, with N 400."""
    values = 3 + 2 * normal(400, seed=0)
    got = bootstrap(values)
    assert got.mean == pytest.approx(values.mean())
    assert width(got) == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert got.ci95[0] < got.mean < got.ci95[1]


def test_the_interval_holds_the_truth_in_95_of_100_cases() -> None:
    held = 0
    for seed in range(300):
        low, high = bootstrap(normal(50, seed=seed)).ci95
        held += low <= 0 <= high
    # The binomial deviation of 300 draws is 1.3%.
    assert 0.90 <= held / 300 <= 0.98


def test_the_same_values_have_the_same_interval() -> None:
    values = normal(3, 20, seed=0)
    assert bootstrap(values[0]) == bootstrap(values[0])
    assert bootstrap_runs(values) == bootstrap_runs(values)
    assert difference(values, -values) == difference(values, -values)


def test_runs_that_differ_widen_the_interval() -> None:
    """Of two runs one quarter of the draws take the worse twice, one quarter the better: a spread
    of 1, times sqrt(2 / (2 - 1)) for the variance that resampling two runs does not show."""
    got = bootstrap_runs(np.array([[1.0] * 5, [-1.0] * 5]))
    assert got.mean == 0
    assert got.ci95 == pytest.approx((-math.sqrt(2), math.sqrt(2)))


def test_more_runs_do_not_make_up_for_few_prompts() -> None:
    prompts = normal(30, seed=1)
    assert width(bootstrap_runs(np.tile(prompts, (8, 1)))) == pytest.approx(
        width(bootstrap(prompts)), rel=0.1
    )


def test_one_run_is_its_prompts() -> None:
    prompts = normal(200, seed=2)
    got, expected = bootstrap_runs(prompts[None]), bootstrap(prompts)
    assert got.mean == expected.mean
    assert width(got) == pytest.approx(width(expected), rel=0.1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_method_does_not_differ_from_itself(seeds: int) -> None:
    values = normal(seeds, 40, seed=3) + normal(seeds, 1, seed=4)
    got = difference(values, values)
    assert got.mean == 0
    assert not got.significant


def test_runs_of_one_method_rarely_differ() -> None:
    """Two sets of four runs of the same method on the same prompts, twenty times."""
    found = []
    for seed in range(20):
        prompts, runs = normal(40, seed=seed), normal(8, 40, seed=100 + seed)
        found.append(difference((prompts + runs)[:4], (prompts + runs)[4:]).significant)
    assert sum(found) <= 3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_clear_difference_is_found(sign: float) -> None:
    theirs, ours = normal(3, 40, seed=5), normal(3, 40, seed=6) + 2 * sign
    got = difference(ours, theirs)
    assert got.mean == pytest.approx(ours.mean() - theirs.mean())
    assert got.significant
    assert np.sign(got.ci95).tolist() == [sign, sign]


def test_the_same_prompts_are_compared_with_each_other() -> None:
    """A small gain is seen although prompts differ far more than the methods do."""
    prompts = 10 * normal(1, 40, seed=7)
    got = difference(prompts + 0.1, prompts)
    assert got.ci95 == pytest.approx((0.1, 0.1))
    assert got.significant


def test_the_runs_of_two_methods_are_drawn_apart() -> None:
    """Run i of one method is no partner of run i of the other: the draws' gaps are -2, 0, 2 times
    sqrt(2)."""
    runs = np.array([[1.0] * 5, [-1.0] * 5])
    got = difference(runs, runs)
    assert got.mean == 0
    assert got.ci95 == pytest.approx((-2 * math.sqrt(2), 2 * math.sqrt(2)))


def test_methods_may_have_different_numbers_of_runs_but_not_of_prompts() -> None:
    got = difference(np.ones((2, 5)), np.zeros((3, 5)))
    assert (got.mean, got.ci95) == (1, (1, 1))
    with pytest.raises(ValueError, match="5 prompts against 4: need the same"):
        difference(np.ones((2, 5)), np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("ci95", "significant"),
    [((0.1, 0.5), True), ((-0.5, -0.1), True), ((-0.1, 0.5), False), ((0.0, 0.5), False)],
)
def test_significant_is_an_interval_without_0(ci95: tuple[float, float], significant: bool) -> None:
    assert Mean(0.2, ci95).significant is significant


def test_a_mean_as_text() -> None:
    assert str(Mean(0.25, (-0.0625, 1.0))) == "+0.250 [-0.062, +1.000]"


def test_a_tie_is_half_a_win() -> None:
    """Won, tied, lost: (1 + 0.5 + 0) / 3; then all lost."""
    ours = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    theirs = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    assert win_rate(ours, theirs).tolist() == [0.5, 0.0]
    assert win_rate(theirs, ours).tolist() == [0.5, 1.0]
    assert win_rate(ours, ours).tolist() == [0.5, 0.5]
