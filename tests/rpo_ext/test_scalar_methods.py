"""What every method with one number per response keeps, offline and online alike."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import torch

from rpo_ext.methods.dro import DRO
from rpo_ext.methods.kto import KTO
from rpo_ext.methods.reward_aware import RewardAware
from rpo_ext.methods.rpo import RPO, RPOBatch
from rto.protocols import CriticMethod, PolicyMethod
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch, TrainBatch

NORM = LossNorm(tokens=23, sequences=7, groups=3)
GROUPS = ([0, 1, 2], [3, 4], [5, 6])
METHODS: dict[str, PolicyMethod] = {
    "rpo-uniform": RPO(),
    "rpo-ref": RPO(estimator="ref", reduction="mean"),
    "rpo-loo": RPO(estimator="loo"),
    "rpo-batch_mean": RPO(estimator="batch_mean", reduction="mean", tau=5.0),
    "rpo-importance": RPO(estimator="importance"),
    "dro-value": DRO(tau=0.5),
    "dro-shared_head": DRO(variant="shared_head", reduction="mean"),
    "dro-policy": DRO(variant="policy"),
    "dro-prompt_variance": DRO(variant="prompt_variance"),
    "kto-mismatched": KTO(threshold="prompt_mean"),
    "kto-matched_mean": KTO(variant="matched_mean", beta=1.0),
    "reward_aware-kl_target_policy": RewardAware(sft_weight=0.1),
    "reward_aware-kl_policy_target": RewardAware(distance="kl_policy_target"),
    "reward_aware-sqloo": RewardAware(distance="sqloo", length_normalise=True),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> PolicyMethod:
    return METHODS[request.param]


def loss_of(method: PolicyMethod, targets: TrainBatch, logprobs: torch.Tensor, rows: list[int]):
    value = torch.linspace(-1, 1, 7)[rows]
    return method.loss(PolicyOutput(logprobs[rows], value=value), targets.take(rows), NORM)


def test_is_a_picklable_feedback_method(method: PolicyMethod) -> None:
    assert isinstance(method, PolicyMethod)
    assert pickle.loads(pickle.dumps(method)) == method
    assert method.card.feedback == "rewards"
    assert method.card.modes == ("offline", "online")
    assert {Role.REWARD, Role.REFERENCE} <= method.roles
    assert method.min_responses in (1, 2)


def test_targets_read_the_roles_they_declare_and_no_other(method, rated) -> None:
    batch = rated()
    kept = {role: score for role, score in batch.scores.items() if role in method.roles}
    method.targets(ScoredBatch(batch.tokens, kept))
    for role in method.roles:
        without = {other: score for other, score in kept.items() if other != role}
        with pytest.raises(ValueError, match=f"no scores of role '{role}'"):
            method.targets(ScoredBatch(batch.tokens, without))


def test_nan_in_the_padding_reaches_nothing(method, rated) -> None:
    clean, dirty = (method.targets(rated(fill=fill)) for fill in (0.0, math.nan))
    assert clean[1] == dirty[1]
    assert all(math.isfinite(value) for value in clean[1].values())
    rows = list(range(7))
    results = []
    for fill, (targets, _) in zip((0.0, math.nan), (clean, dirty), strict=True):
        logprobs = rated(fill=fill)[Role.POLICY].requires_grad_()
        output = loss_of(method, targets, logprobs, rows)
        results.append((output, torch.autograd.grad(output.loss, logprobs)[0]))
    (first, first_gradient), (second, second_gradient) = results
    assert torch.equal(first.loss, second.loss)
    assert {k: float(v) for k, v in first.metrics.items()} == {
        k: float(v) for k, v in second.metrics.items()
    }
    mask = rated().tokens.response_mask
    assert torch.equal(first_gradient, second_gradient)
    assert torch.equal(first_gradient[~mask], torch.zeros(int((~mask).sum())))


def test_shards_sum_to_the_batch(method, rated) -> None:
    """Loss, metrics and gradient; rows of a group apart unless the method wants them together."""
    batch = rated()
    targets, _ = method.targets(batch)
    logprobs = (batch[Role.POLICY] * 1.2).requires_grad_()
    parts = [*GROUPS] if method.whole_groups else [[0, 4], [1], [2, 3, 6], [5]]
    whole = loss_of(method, targets, logprobs, list(range(7)))
    shards = [loss_of(method, targets, logprobs, list(rows)) for rows in parts]
    total = torch.stack([shard.loss for shard in shards]).sum()
    torch.testing.assert_close(total, whole.loss)
    for name, value in whole.metrics.items():
        summed = torch.stack([shard.metrics[name] for shard in shards]).sum()
        torch.testing.assert_close(summed, value, msg=name)
        assert not value.requires_grad, name
    torch.testing.assert_close(
        torch.autograd.grad(total, logprobs), torch.autograd.grad(whole.loss, logprobs)
    )


def test_order_of_the_groups_does_not_matter(method, rated) -> None:
    order = [5, 6, 0, 1, 2, 3, 4]
    batch = rated()
    shuffled = batch.take(order)
    everything = list(range(7))
    first, second = (
        method.loss(
            PolicyOutput(x[Role.POLICY] * 1.2, value=x[Role.CRITIC][:, 0]),
            method.targets(x)[0].take(everything),
            NORM,
        ).loss
        for x in (batch, shuffled)
    )
    torch.testing.assert_close(first, second)


def test_targets_carry_no_gradient_and_fp32(method, rated) -> None:
    targets, _ = method.targets(rated())
    for field in dataclasses.fields(targets):
        tensor = getattr(targets, field.name)
        if isinstance(tensor, torch.Tensor):
            assert tensor.shape == (7,), field.name
            assert not tensor.requires_grad
            assert tensor.dtype in (torch.float32, torch.bool)


def test_another_methods_batch_is_refused(method, rated) -> None:
    batch = rated()
    with pytest.raises(TypeError, match="got a TrainBatch"):
        method.loss(PolicyOutput(batch[Role.POLICY]), TrainBatch(batch.tokens), NORM)


def test_roles_outputs_and_groups() -> None:
    assert isinstance(DRO(), CriticMethod)
    critics = [name for name, method in METHODS.items() if Role.CRITIC in method.roles]
    heads = [name for name, method in METHODS.items() if method.outputs == {"value"}]
    whole = [name for name, method in METHODS.items() if method.whole_groups]
    unrelated = [name for name, method in METHODS.items() if Role.UNRELATED in method.roles]
    assert critics == ["dro-value"]
    assert heads == ["dro-shared_head"]
    assert whole == ["dro-prompt_variance", *[n for n in METHODS if n.startswith("reward_aware")]]
    assert unrelated == ["kto-mismatched"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RPO(tau=0.0), "tau is 0.0: must be above 0"),
        (lambda: DRO(tau=-1.0), "tau is -1.0: must be above 0"),
        (lambda: KTO(beta=math.inf), "beta is inf: must be less than"),
        (lambda: KTO(undesirable_weight=-1.0), "undesirable_weight is -1.0"),
        (lambda: RewardAware(eta=0.0), "eta is 0.0: must be above 0"),
        (lambda: RewardAware(sft_weight=-1.0), "sft_weight is -1.0"),
    ],
)
def test_settings_without_meaning_are_refused(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="estimator is 'mc': must be uniform, ref, loo, batch_m"):
        RPO(estimator="mc")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="threshold is 'median': must be global_mean, batch_mean"):
        KTO(threshold="median")  # pyright: ignore[reportArgumentType]


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="must be value, shared_head, policy or prompt_variance"):
        DRO(variant="v")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must be mismatched or matched_mean"):
        KTO(variant="trl")  # pyright: ignore[reportArgumentType]


def test_rpo_by_hand(rated) -> None:
    """tau = 2 and group 0 with rewards 2 and -1/4: log Z = log((e + e^(-1/8)) / 2)."""
    batch = rated()
    targets, metrics = RPO(tau=2.0).targets(batch)
    log_z = math.log((math.e + math.exp(-0.125)) / 2)
    assert targets.targets[3:5].tolist() == pytest.approx([1 - log_z, -0.125 - log_z], abs=1e-6)
    mask = batch.tokens.response_mask
    log_ratio = (batch[Role.POLICY] - batch[Role.REFERENCE]).masked_fill(~mask, 0).sum(-1)
    output = RPO(tau=2.0).loss(PolicyOutput(batch[Role.POLICY]), targets, NORM)
    torch.testing.assert_close(output.loss, 0.5 * (log_ratio - targets.targets).square().mean())
    assert metrics["rpo/target_std"] == pytest.approx(float(targets.targets.std(correction=0)))


def test_importance_needs_the_samplers_log_probs(rated) -> None:
    batch = rated(fill=math.nan)
    method = RPO(estimator="importance")
    assert Role.SAMPLER in method.roles - RPO().roles
    stored = {role: scores for role, scores in batch.scores.items() if role is not Role.SAMPLER}
    with pytest.raises(ValueError, match="no scores of role 'sampler'"):
        method.targets(ScoredBatch(batch.tokens, stored))


def test_rpo_at_its_fixed_point_has_no_gradient(rated) -> None:
    """A policy whose log-ratio is the target: loss 0."""
    batch = rated()
    targets, _ = RPO().targets(batch)
    assert isinstance(targets, RPOBatch)
    logprobs = batch[Role.REFERENCE].clone()
    logprobs[:, 0] += targets.targets
    logprobs.requires_grad_()
    loss = RPO().loss(PolicyOutput(logprobs), targets, NORM).loss
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-10)
    assert float(torch.autograd.grad(loss, logprobs)[0].abs().max()) < 1e-5


@pytest.mark.parametrize("estimator", ["uniform", "importance"])
def test_rpo_with_the_exact_partition_reaches_the_optimum(tabular, fit, estimator) -> None:
    """Every response once, as from a uniform sampler: exact Z for "importance" under any
    reference, for "uniform" under a uniform one."""
    torch.manual_seed(1)
    shape = (3, 4)
    rewards = torch.randn(shape)
    uniform = torch.full(shape, -math.log(4))
    ref = uniform if estimator == "uniform" else torch.randn(shape).log_softmax(-1)
    batch = tabular(rewards=rewards, ref_logprobs=ref, sampler_logprobs=uniform)
    got = fit(RPO(estimator=estimator, tau=0.5), batch, shape)
    torch.testing.assert_close(got, (ref + rewards / 0.5).log_softmax(-1), atol=3e-3, rtol=0)
