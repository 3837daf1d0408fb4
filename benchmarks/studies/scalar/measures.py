"""What is measured of a trained policy, of its gradients and of its estimate of V."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.studies.scalar.arms import Data, Trainee
from benchmarks.studies.scalar.world import World, logprobs, sample
from rpo_ext.methods.rpo import RPO, RPOBatch
from rto.methods.expect import expect
from rto.models.policy import Policy
from rto.types import Role


class Point(NamedTuple):
    """Mean reward and KL(policy || reference) over answers sampled on the test prompts, and their
    length."""

    reward: float
    kl: float
    length: float


@torch.no_grad()
def evaluate(policy: Policy, world: World, *, seed: int) -> Point:
    drawn = sample(policy, world.test_prompts, seed=seed)
    log_ratio = (logprobs(policy, drawn) - logprobs(world.reference, drawn)).sum(-1)
    return Point(
        reward=float(world.rewards(drawn).mean()),
        kl=float(log_ratio.mean()),
        length=float(drawn.response_mask.sum(-1).float().mean()),
    )


def frontier(points: Sequence[Point], *, start: float, kl: float) -> float:
    """The best reward within ``kl``: the concave hull of the points and of the reference, whose
    reward is ``start``.

    Answering by one of two policies at random has the mean of their rewards, and at most the mean
    of their KLs: what lies on the hull can be had.
    """
    found = sorted([(0.0, start), *((max(p.kl, 0.0), p.reward) for p in points)])
    best = max(y for x, y in found if x <= kl)
    for (x0, y0), (x1, y1) in itertools.combinations(found, 2):
        if x0 <= kl < x1:
            best = max(best, y0 + (y1 - y0) * (kl - x0) / (x1 - x0))
    return best


def signal_to_noise(trainee: Trainee, data: Data, *, rows: int, count: int, seed: int) -> float:
    """||mean g||^2 / tr Cov g of the gradients of ``count`` mini-batches at fixed parameters.

    The sampling error of the mean, tr Cov / count, is taken off the numerator: without any signal
    the ratio is 0 on average, and may be negative.
    """
    parameters = list(trainee.policy.model.parameters())
    gradients: list[Tensor] = []
    for batch in itertools.islice(data.batches(rows, seed=seed), count):
        grads = torch.autograd.grad(trainee.loss(batch), parameters)
        gradients.append(torch.cat([g.flatten() for g in grads]))
    stacked = torch.stack(gradients).double()
    noise = float(stacked.var(0).sum())
    return (float(stacked.mean(0).square().sum()) - noise / count) / noise


ESTIMATORS: Mapping[str, RPO] = {
    "uniform": RPO(),
    "loo": RPO(estimator="loo"),
    "ref": RPO(estimator="ref", reduction="mean"),
    "batch_mean": RPO(estimator="batch_mean", reduction="mean"),
}


def partition_error(method: RPO, data: Data, values: Tensor) -> float:
    """Root mean square of RPO's V - V* over the prompts of ``values``, V of a prompt being that of
    its first answer: reward - tau target."""
    rows = data.rows.take(range(len(values) * data.responses))
    batch, _ = method.targets(rows)
    found = rows[Role.REWARD] - method.tau * expect(batch, RPOBatch).targets
    return rmse(found[:: data.responses], values)


def learned_error(trainee: Trainee, data: Data, values: Tensor) -> float | None:
    """Root mean square of the learned V - V*, None where the method learns no V."""
    first = data.rows.take(range(0, len(values) * data.responses, data.responses))
    found = trainee.values(first.tokens)
    return None if found is None else rmse(found, values)


def rmse(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).square().mean().sqrt())
