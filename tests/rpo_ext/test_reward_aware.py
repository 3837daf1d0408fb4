"""Distances of reward-aware preference optimisation: identities, limits, a tabular optimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rpo_ext.functional.reward_aware import (
    best,
    concordance,
    kl_policy_target,
    kl_target_policy,
    observe,
    sqloo,
    target_entropy,
)
from rpo_ext.methods.reward_aware import RewardAware
from rpo_ext.settings import RewardAwareSettings
from rto.registry import build
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig
from rto.types import LossNorm, PolicyOutput, Role

Measure = Callable[..., Tensor]
MEASURES: dict[str, Measure] = {
    "kl_target_policy": kl_target_policy,
    "kl_policy_target": kl_policy_target,
    "sqloo": sqloo,
}
GROUP = torch.tensor([4, 4, 4, 0, 0])
A = torch.tensor([0.3, -0.8, 1.1, -0.2, 0.9], dtype=torch.float64)
B = torch.tensor([1.0, 0.5, -0.4, 2.0, -1.0], dtype=torch.float64)
PAIR = torch.zeros(2, dtype=torch.long)
NORM = LossNorm(tokens=23, sequences=7, groups=3)


def pair(value: float) -> Tensor:
    return torch.tensor([value, 0.0], dtype=torch.float64)


def of_pair(name: str, *, da: float, db: float) -> float:
    return float(MEASURES[name](implicit=pair(da), target=pair(db), group=PAIR).sum())


def naive(name: str, a: list[float], b: list[float]) -> float:
    def softmax(v: list[float]) -> list[float]:
        return [math.exp(x) / sum(map(math.exp, v)) for x in v]

    def others(v: list[float], k: int) -> float:
        return (sum(v) - v[k]) / (len(v) - 1)

    qa, qb = softmax(a), softmax(b)
    match name:
        case "kl_target_policy":
            return sum(q * math.log(q / p) for p, q in zip(qa, qb, strict=True))
        case "kl_policy_target":
            return sum(p * math.log(p / q) for p, q in zip(qa, qb, strict=True))
        case _:
            gaps = [(a[k] - others(a, k)) - (b[k] - others(b, k)) for k in range(len(a))]
            return 0.5 * sum(gap * gap for gap in gaps)


@pytest.mark.parametrize("name", MEASURES)
def test_distance_equals_its_definition_for_prompts_of_different_sizes(name: str) -> None:
    terms = MEASURES[name](implicit=A, target=B, group=GROUP)
    for rows in (slice(0, 3), slice(3, 5)):
        expected = naive(name, A[rows].tolist(), B[rows].tolist())
        assert float(terms[rows].sum()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_a_constant_per_prompt_changes_nothing(name: str) -> None:
    shift = torch.where(GROUP == 4, 5.0, -3.0).double()
    expected = MEASURES[name](implicit=A, target=B, group=GROUP)
    torch.testing.assert_close(MEASURES[name](implicit=A + shift, target=B, group=GROUP), expected)
    torch.testing.assert_close(MEASURES[name](implicit=A, target=B - shift, group=GROUP), expected)


@pytest.mark.parametrize("name", MEASURES)
def test_rows_may_come_in_any_order(name: str) -> None:
    order = torch.tensor([3, 0, 4, 2, 1])
    expected = MEASURES[name](implicit=A, target=B, group=GROUP)
    got = MEASURES[name](implicit=A[order], target=B[order], group=GROUP[order])
    torch.testing.assert_close(got, expected[order])


def test_gradients_in_closed_form() -> None:
    """q(a) - q(b); q(a) (w - E w) with w = log q(a) - log q(b); (K/(K-1))^2 (d - mean d)."""
    a, b = A[:3].clone().requires_grad_(), B[:3]
    group = GROUP[:3]
    qa, qb = a.detach().softmax(-1), b.softmax(-1)
    w = (qa / qb).log()
    d = a.detach() - b
    expected = {
        "kl_target_policy": qa - qb,
        "kl_policy_target": qa * (w - (qa * w).sum()),
        "sqloo": (3 / 2) ** 2 * (d - d.mean()),
    }
    for name, gradient in expected.items():
        loss = MEASURES[name](implicit=a, target=b, group=group).sum()
        torch.testing.assert_close(torch.autograd.grad(loss, a)[0], gradient)


@pytest.mark.parametrize("name", MEASURES)
def test_gradcheck(name: str) -> None:
    inputs = A.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a: MEASURES[name](implicit=a, target=B, group=GROUP), (inputs,)
    )


def test_at_the_reference_the_loss_is_known() -> None:
    """log K - H(q(b));  -log K - mean log q(b);  1/2 sum bhat^2, for K = 3 and beta log-ratio 0."""
    b, zero, group = B[:3], torch.zeros(3, dtype=torch.float64), GROUP[:3]
    log_q = b.log_softmax(-1)
    entropy = float(-(log_q.exp() * log_q).sum())
    bhat = b - (b.sum() - b) / 2
    expected = {
        "kl_target_policy": math.log(3) - entropy,
        "kl_policy_target": -math.log(3) - float(log_q.mean()),
        "sqloo": 0.5 * float(bhat.square().sum()),
    }
    for name, value in expected.items():
        got = MEASURES[name](implicit=zero, target=b, group=group).sum()
        assert float(got) == pytest.approx(value, abs=1e-12), name
    assert float(target_entropy(b, group)) == pytest.approx(entropy / math.log(3))


def test_an_infinite_gap_is_dpo_and_a_noisy_label_is_cdpo() -> None:
    da = 0.7
    dpo = -float(logsigmoid(torch.tensor(da, dtype=torch.float64)))
    assert of_pair("kl_target_policy", da=da, db=40.0) == pytest.approx(dpo, abs=1e-12)
    c = 0.9
    cdpo = -c * math.log(1 / (1 + math.exp(-da))) - (1 - c) * math.log(1 / (1 + math.exp(da)))
    entropy = -c * math.log(c) - (1 - c) * math.log(1 - c)
    got = of_pair("kl_target_policy", da=da, db=math.log(c / (1 - c)))
    assert got == pytest.approx(cdpo - entropy, abs=1e-12)


def test_half_a_unit_of_target_is_ipo() -> None:
    """sqloo = (da - 1/2)^2 = beta^2 (delta - 1 / (2 beta))^2, IPO times beta^2."""
    beta, delta = 0.3, 2.1
    ipo = (delta - 1 / (2 * beta)) ** 2
    assert of_pair("sqloo", da=beta * delta, db=0.5) == pytest.approx(beta**2 * ipo)


def test_pairs_are_bernoulli() -> None:
    da, db = -0.4, 1.3
    p, q = 1 / (1 + math.exp(-da)), 1 / (1 + math.exp(-db))
    forward = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    backward = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert of_pair("kl_target_policy", da=da, db=db) == pytest.approx(forward)
    assert of_pair("kl_policy_target", da=da, db=db) == pytest.approx(backward)
    assert of_pair("sqloo", da=da, db=db) == pytest.approx((da - db) ** 2)


def test_gradient_of_sqloo_is_that_of_rloo() -> None:
    """Ratio beta K^2 / (K - 1), RLOO's reward being r - beta log-ratio and its loss the mean."""
    beta, k = 0.3, 4
    torch.manual_seed(0)
    logprobs = torch.randn(k, dtype=torch.float64, requires_grad=True)
    ref, rewards = torch.randn(2, k, dtype=torch.float64)
    total = (rewards - beta * (logprobs - ref)).detach()
    baseline = (total.sum() - total) / (k - 1)
    rloo = -((total - baseline) * logprobs).mean()
    group = torch.zeros(k, dtype=torch.long)
    ours = sqloo(implicit=beta * (logprobs - ref), target=rewards, group=group).sum()
    ratio = torch.autograd.grad(ours, logprobs)[0] / torch.autograd.grad(rloo, logprobs)[0]
    assert ratio.tolist() == pytest.approx([beta * k**2 / (k - 1)] * k)
    assert beta * k**2 / (k - 1) == pytest.approx(1.6)


@pytest.mark.parametrize("name", MEASURES)
def test_two_passes_have_the_gradient_of_one_graph(name: str) -> None:
    """dL/ds first, then sum dL/ds * log pi row by row: no K responses in one graph."""
    torch.manual_seed(0)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    features = torch.randn(5, 6, dtype=torch.float64)

    def loss(log_ratio: Tensor) -> Tensor:
        return MEASURES[name](implicit=0.3 * log_ratio, target=B, group=GROUP).sum()

    (whole,) = torch.autograd.grad(loss((features @ weight).tanh()), weight)
    scores = (features @ weight).tanh().detach().requires_grad_()
    (slopes,) = torch.autograd.grad(loss(scores), scores)
    parts = [
        torch.autograd.grad(slopes[row] * (features[row] @ weight).tanh(), weight)[0]
        for row in range(5)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)


@pytest.mark.parametrize("name", MEASURES)
def test_a_gap_of_200_and_ties_stay_finite_in_fp32(name: str) -> None:
    for target in (torch.tensor([200.0, -200.0, 0.0]), torch.zeros(3)):
        a = torch.zeros(3, requires_grad=True)
        loss = MEASURES[name](implicit=a, target=target, group=torch.zeros(3, dtype=torch.long))
        (gradient,) = torch.autograd.grad(loss.sum(), a)
        assert bool(loss.isfinite().all())
        assert bool(gradient.isfinite().all())


def test_concordance_by_hand() -> None:
    """Gaps of b: 0-1 0.5, 0-2 1.4, 1-2 0.9; a orders 0-1 alike, the other two not. Pair: no."""
    shares = concordance(implicit=A, target=B, group=GROUP)
    assert shares.tolist() == pytest.approx([0.5 / 2.8] * 3 + [0.0] * 2)
    tied = concordance(implicit=A, target=torch.zeros_like(A), group=GROUP)
    at_start = concordance(implicit=torch.zeros_like(A), target=B, group=GROUP)
    assert tied.tolist() == at_start.tolist() == [0.5] * 5


def test_rankings_by_hand() -> None:
    """Best of b: rows 0 and 3; of a: rows 2 and 4. Worst of b: rows 2 and 4."""
    got = observe(log_ratio=A, rewards=B, group=GROUP, norm=LossNorm(9, 5, 2))
    assert float(got["reward_aware/top1_agreement"]) == 0.0
    assert float(got["reward_aware/best_log_ratio"]) == pytest.approx((0.3 - 0.2) / 2)
    assert float(got["reward_aware/worst_log_ratio"]) == pytest.approx((1.1 + 0.9) / 2)
    assert float(got["reward_aware/concordance"]) == pytest.approx(0.5 / 2.8 / 2)
    same = observe(log_ratio=B, rewards=B, group=GROUP, norm=LossNorm(9, 5, 2))
    assert float(same["reward_aware/top1_agreement"]) == pytest.approx(1.0)
    ties = best(torch.tensor([1.0, 1.0, 0.0]), torch.zeros(3, dtype=torch.long))
    assert ties.tolist() == [0.5, 0.5, 0.0]


def test_one_response_or_no_reward_is_refused(rated) -> None:
    batch = rated()
    with pytest.raises(
        ValueError, match="reward_aware needs 2 responses per prompt, group 4 has 1"
    ):
        RewardAware().targets(batch.take([0, 3, 4]))
    rewards = batch[Role.REWARD].clone()
    rewards[2] = math.nan
    with pytest.raises(ValueError, match="reward of row 2 is nan: must be finite"):
        RewardAware().targets(rated(reward=rewards))


def test_the_sft_term_raises_the_best_response(rated) -> None:
    """Best rows of the fixture: 0, 3 and 5, with log-probs summed over their tokens."""
    batch = rated()
    plain, method = RewardAware(), RewardAware(sft_weight=0.25)
    targets, _ = method.targets(batch)
    output = PolicyOutput(batch[Role.POLICY])
    extra = method.loss(output, targets, NORM).loss - plain.loss(output, targets, NORM).loss
    summed = batch[Role.POLICY].masked_fill(~batch.tokens.response_mask, 0).sum(-1)
    torch.testing.assert_close(extra, -0.25 * summed[[0, 3, 5]].mean())


def test_metrics_of_the_targets(rated) -> None:
    rewards = torch.tensor([1.0, -1.0, 0.5, 2.0, -0.25, 0.75, 0.75])
    _, metrics = RewardAware(eta=2.0).targets(rated(reward=rewards))
    entropies = [
        float(torch.distributions.Categorical(logits=2 * rewards[rows]).entropy()) / math.log(k)
        for rows, k in ((slice(0, 3), 3), (slice(3, 5), 2), (slice(5, 7), 2))
    ]
    assert entropies[2] == pytest.approx(1.0)
    assert metrics["reward_aware/target_entropy"] == pytest.approx(sum(entropies) / 3)
    assert metrics["reward_aware/tied_share"] == pytest.approx(1 / 3)
    assert metrics["reward_aware/responses"] == pytest.approx(7 / 3)


@pytest.mark.parametrize("distance", MEASURES)
def test_overfitting_a_table_reaches_the_optimum(tabular, fit, distance) -> None:
    """4 prompts x 4 responses: pi_ref exp(eta / beta r), at which every distance is 0."""
    torch.manual_seed(1)
    rewards, ref = torch.randn(4, 4), torch.randn(4, 4).log_softmax(-1)
    batch = tabular(rewards=rewards, ref_logprobs=ref, sampler_logprobs=ref)
    method = RewardAware(beta=0.5, eta=0.75, distance=distance)
    got = fit(method, batch, (4, 4))
    torch.testing.assert_close(got, (ref + 1.5 * rewards).log_softmax(-1), atol=5e-3, rtol=0)
    targets, _ = method.targets(batch)
    output = PolicyOutput(got.reshape(-1, 1))
    metrics = method.loss(output, targets, LossNorm(16, 16, 4)).metrics
    assert float(metrics["reward_aware/loss"]) < 1e-4
    assert float(metrics["reward_aware/top1_agreement"]) == pytest.approx(1.0)


@pytest.mark.parametrize("length_normalise", [False, True])
@pytest.mark.parametrize("distance", MEASURES)
def test_the_log_ratio_of_a_response_may_be_taken_per_token(
    rated, distance, length_normalise: bool
) -> None:
    """beta times the log-ratio, summed or averaged over a response's own tokens, against eta r."""
    batch = rated()
    method = RewardAware(beta=0.7, eta=0.4, distance=distance, length_normalise=length_normalise)
    targets, _ = method.targets(batch)
    got = method.loss(PolicyOutput(batch[Role.POLICY]), targets, NORM).loss
    ratio = batch[Role.POLICY] - batch[Role.REFERENCE]
    implicit: list[float] = []
    for row, length in enumerate(batch.tokens.response_mask.sum(-1).tolist()):
        summed = sum(ratio[row, :length].tolist())
        implicit.append(0.7 * (summed / length if length_normalise else summed))
    explicit = [0.4 * r for r in batch[Role.REWARD].tolist()]
    groups = (slice(0, 3), slice(3, 5), slice(5, 7))
    expected = sum(naive(distance, implicit[rows], explicit[rows]) for rows in groups) / 3
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_the_settings_of_the_section_are_the_methods() -> None:
    fields: dict[str, Any] = {"beta": 0.3, "eta": 0.6, "distance": "sqloo", "sft_weight": 0.2}
    settings = RewardAwareSettings(**fields, length_normalise=True)
    config = RunConfig(algo=Algo("reward_aware", settings))
    built = build(config, cast(Any, None), mode="offline")
    assert built == RewardAware(**fields, length_normalise=True)
