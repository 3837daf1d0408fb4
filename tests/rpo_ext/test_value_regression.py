"""DRO's losses against the paper's gradients and a tabular optimum."""

from __future__ import annotations

import itertools

import pytest
import torch

from rpo_ext.functional import value_regression as regression
from rpo_ext.methods.dro import DRO, BaselineBatch
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch

REWARDS = torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
GROUP = torch.tensor([3, 3, 1, 1, 1])
VALUES = torch.tensor([0.2, 0.2, -0.4, -0.4, -0.4], dtype=torch.float64)
REF = torch.tensor([-1.2, -0.3, -2.0, -0.7, -1.1], dtype=torch.float64)
LOGPROBS = torch.tensor([-1.0, -0.6, -1.5, -0.2, -2.0], dtype=torch.float64)
NORM = LossNorm(tokens=20, sequences=5, groups=2)


def test_policy_loss_by_hand() -> None:
    """r - V - tau rho = 1 - 0.25 - 2 * 0.5 = -0.25; 1/2 * 0.0625 / 2."""
    got = regression.policy_loss(
        rewards=torch.tensor([1.0]),
        values=torch.tensor([0.25]),
        log_ratio=torch.tensor([0.5]),
        tau=2.0,
        norm=LossNorm(1, 1, 1),
    )
    assert float(got.loss) == pytest.approx(0.015625)
    assert float(got.metrics["dro/residual"]) == pytest.approx(-0.25)


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_policy_gradient_is_algorithm_1(tau: float) -> None:
    """-[(r - V) grad log pi - tau/2 grad (log pi/pi_ref)^2], and none reaches V."""
    logprobs, values = LOGPROBS.clone().requires_grad_(), VALUES.clone().requires_grad_()
    ours = regression.policy_loss(
        rewards=REWARDS, values=values, log_ratio=logprobs - REF, tau=tau, norm=NORM
    ).loss
    paper = -(logprobs * (REWARDS - VALUES) - tau / 2 * (logprobs - REF).square()).mean()
    (got,) = torch.autograd.grad(ours, logprobs, retain_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad(paper, logprobs)[0])
    assert torch.autograd.grad(ours, values, allow_unused=True) == (None,)


def test_value_gradient_is_algorithm_1() -> None:
    """(V - r + tau log pi/pi_ref) grad V, and none reaches the policy."""
    logprobs, values = LOGPROBS.clone().requires_grad_(), VALUES.clone().requires_grad_()
    regularised = regression.regularised_reward(rewards=REWARDS, log_ratio=logprobs - REF, tau=2.0)
    loss = regression.value_loss(values=values, regularised=regularised, norm=NORM).loss
    (got,) = torch.autograd.grad(loss, values, retain_graph=True)
    torch.testing.assert_close(got, (VALUES - REWARDS + 2 * (LOGPROBS - REF)) / 5)
    assert torch.autograd.grad(loss, logprobs, allow_unused=True) == (None,)


def test_detached_batch_mean_has_the_variances_value_and_gradient() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    x = regression.regularised_reward(rewards=REWARDS, log_ratio=logprobs - REF, tau=1.5)
    mean = x.detach().mean().expand_as(x)
    parts = [
        regression.residual_loss(regularised=x[rows], baseline=mean[rows], norm=NORM).loss
        for rows in (slice(0, 3), slice(3, 5))
    ]
    variance = 0.5 * x.var(correction=0)
    torch.testing.assert_close(parts[0] + parts[1], variance)
    torch.testing.assert_close(
        torch.autograd.grad(parts[0] + parts[1], logprobs, retain_graph=True),
        torch.autograd.grad(variance, logprobs),
    )


def test_prompt_variance_is_half_the_mean_squared_difference_of_pairs() -> None:
    x = REWARDS
    expected = 0.0
    for number in (1, 3):
        own = x[number == GROUP].tolist()
        pairs = [(a - b) ** 2 for a, b in itertools.combinations(own, 2)]
        expected += 0.5 * 0.5 * sum(pairs) / len(pairs) / 2
    got = regression.prompt_variance_loss(regularised=x, group=GROUP, norm=NORM).loss
    assert float(got) == pytest.approx(expected)
    shifted = x + torch.where(GROUP == 1, 5.0, -2.0)
    again = regression.prompt_variance_loss(regularised=shifted, group=GROUP, norm=NORM).loss
    torch.testing.assert_close(again, got)
    with pytest.raises(ValueError, match="variance per prompt needs 2 responses"):
        regression.prompt_variance_loss(regularised=x[:1], group=GROUP[:1], norm=NORM)


def test_gradcheck() -> None:
    def losses(logprobs: torch.Tensor) -> torch.Tensor:
        x = regression.regularised_reward(rewards=REWARDS, log_ratio=logprobs - REF, tau=0.7)
        variance = regression.prompt_variance_loss(regularised=x, group=GROUP, norm=NORM)
        residual = regression.residual_loss(regularised=x, baseline=VALUES, norm=NORM)
        return variance.loss + 2 * residual.loss

    assert torch.autograd.gradcheck(losses, (LOGPROBS.clone().requires_grad_(),))


def test_the_methods_batch_reads_the_first_value_and_the_policys_start(rated) -> None:
    batch = rated()
    method = DRO(tau=0.5)
    targets, metrics = method.targets(batch)
    assert isinstance(targets, BaselineBatch)
    assert torch.equal(targets.baseline, batch[Role.CRITIC][:, 0])
    mask = batch.tokens.response_mask
    log_ratio = (batch[Role.POLICY] - batch[Role.REFERENCE]).masked_fill(~mask, 0).sum(-1)
    torch.testing.assert_close(targets.regularised, batch[Role.REWARD] - 0.5 * log_ratio)
    residual = targets.regularised - targets.baseline
    assert metrics["dro/residual_std"] == pytest.approx(float(residual.std(correction=0)))
    values = torch.full((7, 5), 9.0)
    values[:, 0] = targets.regularised
    assert float(method.value_loss(values, targets, LossNorm(23, 7, 3)).loss) == 0.0


def test_batch_variance_of_the_method_at_the_start_of_the_step(rated) -> None:
    batch = rated()
    method = DRO(tau=0.5, variant="policy")
    targets, _ = method.targets(batch)
    got = method.loss(PolicyOutput(batch[Role.POLICY]), targets, LossNorm(23, 7, 3)).loss
    mask = batch.tokens.response_mask
    log_ratio = (batch[Role.POLICY] - batch[Role.REFERENCE]).masked_fill(~mask, 0).sum(-1)
    expected = 0.5 * (batch[Role.REWARD] - 0.5 * log_ratio).var(correction=0)
    torch.testing.assert_close(got, expected)


def test_shared_head_is_the_joint_loss(rated) -> None:
    batch = rated()
    method = DRO(variant="shared_head", reduction="mean")
    targets, _ = method.targets(batch)
    norm = LossNorm(23, 7, 3)
    value = torch.linspace(-1, 1, 7, requires_grad=True)
    logprobs = batch[Role.POLICY].clone().requires_grad_()
    loss = method.loss(PolicyOutput(logprobs, value=value), targets, norm).loss
    mask = batch.tokens.response_mask
    lengths = mask.sum(-1)
    log_ratio = (batch[Role.POLICY] - batch[Role.REFERENCE]).masked_fill(~mask, 0).sum(-1) / lengths
    residual = batch[Role.REWARD] - value.detach() - log_ratio
    torch.testing.assert_close(loss, 0.5 * residual.square().mean())
    by_value, by_policy = torch.autograd.grad(loss, (value, logprobs))
    torch.testing.assert_close(by_value, -residual / 7)
    torch.testing.assert_close(by_policy[:, 0], -residual / lengths / 7)
    with pytest.raises(ValueError, match="has no value"):
        method.loss(PolicyOutput(logprobs), targets, norm)


@pytest.mark.parametrize(("variant", "prompts"), [("prompt_variance", 3), ("policy", 1)])
def test_variances_vanish_at_the_optimum(tabular, fit, variant, prompts) -> None:
    """Over all responses of a table pi_ref exp(r / tau) / Z is the only minimum of the variance.

    The batch's variance has it only where V* is the same for all prompts: one prompt here.
    """
    torch.manual_seed(1)
    rewards, ref = torch.randn(prompts, 4), torch.randn(prompts, 4).log_softmax(-1)
    batch = tabular(rewards=rewards, ref_logprobs=ref, sampler_logprobs=ref)
    got = fit(DRO(variant=variant, tau=0.5), batch, (prompts, 4))
    torch.testing.assert_close(got, (ref + rewards / 0.5).log_softmax(-1), atol=2e-3, rtol=0)


def test_dro_v_reaches_the_joint_minimiser_on_a_table(tabular) -> None:
    """pi* = pi_ref exp(r / tau) / Z and V* = tau log Z, one detached step of each at a time."""
    torch.manual_seed(1)
    tau, shape = 0.5, (3, 4)
    rewards, ref = torch.randn(shape), torch.randn(shape).log_softmax(-1)
    batch = tabular(rewards=rewards, ref_logprobs=ref, sampler_logprobs=ref)
    method, norm = DRO(tau=tau), LossNorm(tokens=12, sequences=12, groups=3)
    logits, v = ref.clone().requires_grad_(), torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([logits, v], lr=0.05)
    for _ in range(500):
        logprobs = logits.log_softmax(-1).reshape(-1, 1)
        values = v.repeat_interleave(4).unsqueeze(1)
        scores = {Role.POLICY: logprobs.detach(), Role.CRITIC: values.detach()}
        targets, _ = method.targets(ScoredBatch(batch.tokens, {**batch.scores, **scores}))
        policy = method.loss(PolicyOutput(logprobs), targets, norm).loss
        optimizer.zero_grad()
        (policy + method.value_loss(values, targets, norm).loss).backward()
        optimizer.step()
    exact = ref + rewards / tau
    torch.testing.assert_close(logits.log_softmax(-1), exact.log_softmax(-1), atol=3e-3, rtol=0)
    torch.testing.assert_close(v, tau * exact.logsumexp(-1), atol=3e-3, rtol=0)
