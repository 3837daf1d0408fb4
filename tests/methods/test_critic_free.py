from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from critic_free_methods import METHODS

from rto.functional.losses import aggregate
from rto.functional.rewards import dpo_token_rewards
from rto.methods.critic_free import CriticFree
from rto.methods.policy_gradient import ActorBatch
from rto.methods.rto import DpoTokenReward
from rto.protocols import CriticMethod, PolicyMethod
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch

NAMES = tuple(METHODS)
PLAIN: dict[str, Any] = {"kl_use_loss": False, "kl_estimator": "k1", "loss_reduction": "token"}
TITLES = {
    "reinforce_pp": ("REINFORCE++", "arXiv 2501.03262"),
    "reinforce_baseline": ("REINFORCE++ with a group baseline", "arXiv 2501.03262"),
    "rloo": ("REINFORCE leave-one-out", "arXiv 2402.14740"),
    "grpo": ("Group Relative Policy Optimization", "arXiv 2402.03300"),
    "dr_grpo": ("GRPO done right", "arXiv 2503.20783"),
}
WHITENED = ("reinforce_pp", "reinforce_baseline")
LENGTHS = [7, 1, 4, 6, 2, 5]
TOKENS = sum(LENGTHS)
NORM = LossNorm(tokens=TOKENS, sequences=6, groups=3)

HALF, UNIT = 10.5 / 2, 10.5 / 2 / (10.5 / math.sqrt(2) + 1e-4)
SENTENCE: dict[str, list[float]] = {
    "reinforce_pp": [10, -0.5, 0.25, 1.5, -10, 3],
    "reinforce_baseline": [HALF, -HALF, -0.625, 0.625, -6.5, 6.5],
    "rloo": [10.5, -10.5, -1.25, 1.25, -13, 13],
    "grpo": [
        UNIT,
        -UNIT,
        -0.625 / (1.25 / math.sqrt(2) + 1e-4),
        0.625 / (1.25 / math.sqrt(2) + 1e-4),
        -6.5 / (13 / math.sqrt(2) + 1e-4),
        6.5 / (13 / math.sqrt(2) + 1e-4),
    ],
    "dr_grpo": [HALF, -HALF, -0.625, 0.625, -6.5, 6.5],
}
"""Rewards 12 -0.5 | 0.25 1.5 | -20 3, clipped to +-10, each less its baseline. The unbiased
deviation of two rewards is their distance over sqrt(2)."""


def critic_free(name: str, **fields: Any) -> CriticFree:
    """The method of this name with the KL in the reward, as in PPO, where nothing else is given."""
    return replace(METHODS[name], **{**PLAIN, **fields})


def dpo(**fields: Any) -> dict[str, Any]:
    return {"token_rewards": (DpoTokenReward(**fields),)}


def naive_advantages(batch: ScoredBatch, name: str, *, kl_coef: float, gamma: float) -> list[float]:
    """Over all real tokens, row by row, before any whitening."""
    found: list[float] = []
    for row, length in enumerate(LENGTHS):
        log_ratio = (batch[Role.POLICY] - batch[Role.REFERENCE])[row, :length].tolist()
        rewards = [-kl_coef * x for x in log_ratio]
        rewards[-1] += SENTENCE[name][row]
        found += [
            sum(gamma ** (k - t) * rewards[k] for k in range(t, length)) for t in range(length)
        ]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_sentence_term_by_hand(scored, name: str):
    got = critic_free(name).sentence_term(scored())
    assert got.tolist() == pytest.approx(SENTENCE[name], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_targets_against_a_loop(scored, name: str):
    batch = scored()
    got, metrics = critic_free(name, kl_coef=0.1, gamma=0.9).targets(batch)
    raw = naive_advantages(batch, name, kl_coef=0.1, gamma=0.9)
    mean = sum(raw) / TOKENS
    std = math.sqrt(sum((a - mean) ** 2 for a in raw) / TOKENS)
    expected = [(a - mean) / std for a in raw] if name in WHITENED else raw
    mask = batch.tokens.response_mask
    torch.testing.assert_close(got.advantages[mask], torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert not got.advantages[~mask].any()
    assert metrics["advantage/mean"] == pytest.approx(mean, abs=1e-5)
    assert metrics["advantage/std"] == pytest.approx(std, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_without_std_norm_those_two_are_only_centred(scored, name: str):
    batch = scored()
    mask = batch.tokens.response_mask
    raw = torch.tensor(naive_advantages(batch, name, kl_coef=0.01, gamma=1.0))
    expected = raw - raw.mean() if name in WHITENED else raw
    got, _ = critic_free(name, no_std_norm=True).targets(batch)
    torch.testing.assert_close(got.advantages[mask], expected, atol=1e-5, rtol=1e-5)


def test_with_the_kl_in_the_loss_every_token_gets_its_responses_advantage(scored):
    batch = scored()
    method = critic_free("rloo", kl_use_loss=True, kl_coef=0.5, kl_estimator="k3")
    got, _ = method.targets(batch)
    expected = torch.tensor(SENTENCE["rloo"]).unsqueeze(-1).expand(6, 7)
    mask = batch.tokens.response_mask
    torch.testing.assert_close(got.advantages, expected.masked_fill(~mask, 0))


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_of_0_is_no_token_reward(scored, name: str):
    plain, metrics = critic_free(name).targets(scored())
    off = critic_free(name, **dpo(scale=0.0, variant="delayed"))
    unpaid, off_metrics = off.targets(scored())
    assert torch.equal(unpaid.advantages, plain.advantages)
    assert off_metrics == metrics
    assert off.roles == {Role.POLICY, Role.REFERENCE, Role.REWARD}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WHITENED])
def test_the_token_reward_is_credited_on_top_and_has_no_baseline(scored, name: str):
    """At gamma 1 a response's first advantage is the sum of all that its tokens are paid."""
    batch = scored()
    mask = batch.tokens.response_mask
    method = critic_free(name, **dpo(scale=0.1, clip=0.08))
    assert method.roles == {Role.POLICY, Role.REFERENCE, Role.REWARD, Role.DPO}
    with_term, metrics = method.targets(batch)
    plain, _ = critic_free(name).targets(batch)
    term = dpo_token_rewards(
        dpo_logprobs=batch[Role.DPO],
        ref_logprobs=batch[Role.REFERENCE],
        mask=mask,
        scale=0.1,
        clip=0.08,
    )
    gained = (with_term.advantages - plain.advantages)[:, 0]
    torch.testing.assert_close(gained, term.sum(-1), atol=1e-5, rtol=1e-4)
    assert gained.abs().min() > 1e-3
    assert metrics["dpo/sum_mean"] == pytest.approx(float(term.sum(-1).mean()), rel=1e-5)


def test_the_token_reward_moves_whitened_advantages_too(scored):
    for name in WHITENED:
        with_term, _ = critic_free(name, **dpo(scale=0.5)).targets(scored())
        plain, _ = critic_free(name).targets(scored())
        assert not torch.allclose(with_term.advantages, plain.advantages, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_nan_in_the_padding_changes_nothing(scored, name: str):
    method = critic_free(name, **dpo(), kl_use_loss=True, kl_estimator="k3", max_response_length=9)
    clean, clean_metrics = method.targets(scored())
    dirty, dirty_metrics = method.targets(scored(fill=math.nan))
    assert clean_metrics == dirty_metrics
    for field in ("old_logprobs", "ref_logprobs", "advantages"):
        assert torch.equal(getattr(clean, field), getattr(dirty, field)), field
    losses = [
        method.loss(PolicyOutput(scored(fill=fill)[Role.POLICY] - 0.1), targets, NORM).loss
        for fill, targets in ((0.0, clean), (math.nan, dirty))
    ]
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("max_response_length", [7, 20])
def test_dr_grpo_divides_by_a_constant(scored, max_response_length: int):
    """All tokens' sum over (6 responses x the longest allowed), the KL (k3, at most 10) too."""
    batch = scored()
    method = critic_free(
        "dr_grpo",
        kl_use_loss=True,
        kl_estimator="k3",
        kl_coef=0.3,
        max_response_length=max_response_length,
    )
    targets, _ = method.targets(batch)
    shift = torch.linspace(-0.4, 0.4, 7)
    got = method.loss(PolicyOutput(batch[Role.POLICY] + shift), targets, NORM).loss
    total = 0.0
    for row, length in enumerate(LENGTHS):
        advantage = SENTENCE["dr_grpo"][row]
        for t in range(length):
            ratio = math.exp(float(shift[t]))
            total -= min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            now = float(batch[Role.POLICY][row, t] + shift[t])
            d = now - float(batch[Role.REFERENCE][row, t])
            total += 0.3 * min(math.exp(-d) - 1 + d, 10)
    assert float(got) == pytest.approx(total / (6 * max_response_length), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dr_grpo"])
def test_the_others_do_not_know_the_longest_response(scored, name: str):
    batch = scored()
    output = PolicyOutput(batch[Role.POLICY] - 0.1)
    values = []
    for longest in (1, 50):
        method = critic_free(name, max_response_length=longest)
        values.append(float(method.loss(output, method.targets(batch)[0], NORM).loss))
    assert values[0] == values[1] != 0


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_before_the_first_step_the_loss_is_minus_the_mean_advantage(scored, reduction):
    """The paper's GRPO weights each response alike (sequence), DAPO each token."""
    batch = scored()
    method = critic_free("grpo", loss_reduction=reduction)
    targets, _ = method.targets(batch)
    expected = -aggregate(
        targets.advantages, mask=batch.tokens.response_mask, norm=NORM, reduction=reduction
    )
    got = method.loss(PolicyOutput(batch[Role.POLICY]), targets, NORM).loss
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", NAMES)
def test_shards_of_whole_groups_sum_to_the_batch(scored, name: str):
    batch = scored()
    method = critic_free(
        name, kl_use_loss=True, kl_estimator="k3", entropy_coef=0.1, max_response_length=12
    )
    targets, _ = method.targets(batch)
    logprobs = (batch[Role.POLICY] - 0.1).requires_grad_()
    entropy = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))

    def part(rows: list[int]) -> torch.Tensor:
        output = PolicyOutput(logprobs[rows], entropy[rows])
        return method.loss(output, targets.take(rows), NORM).loss

    whole = part(list(range(6)))
    shards = part([4, 5]) + part([0, 1, 2, 3])
    torch.testing.assert_close(shards, whole)
    torch.testing.assert_close(
        torch.autograd.grad(shards, logprobs), torch.autograd.grad(whole, logprobs)
    )


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_groups_changes_nothing(scored, name: str):
    batch, order = scored(), [4, 2, 0, 1, 5, 3]
    method = critic_free(name, **dpo(scale=0.1))
    moved, _ = method.targets(batch.take(order))
    plain, _ = method.targets(batch)
    torch.testing.assert_close(moved.advantages, plain.advantages[order])


@pytest.mark.parametrize("name", NAMES)
def test_how_many_responses_a_method_compares(scored, name: str):
    method = critic_free(name)
    assert method.min_responses == (1 if name == "reinforce_pp" else 2)
    one_alone = scored().take([0, 1, 2])
    if name == "reinforce_pp":
        assert method.targets(one_alone)[0].advantages.isfinite().all()
    else:
        with pytest.raises(ValueError, match="a group has one response"):
            method.targets(one_alone)


@pytest.mark.parametrize("name", NAMES)
def test_identity(scored, name: str):
    method: PolicyMethod = critic_free(name)
    assert isinstance(method, PolicyMethod)
    assert not isinstance(method, CriticMethod)
    assert pickle.loads(pickle.dumps(method)) == method
    assert (method.card.name, method.card.feedback, method.card.modes) == (
        name,
        "rewards",
        ("online",),
    )
    assert (method.card.title, method.card.paper) == TITLES[name]
    assert not method.whole_groups
    targets, _ = method.targets(scored())
    assert isinstance(targets, ActorBatch)
    assert not targets.advantages.requires_grad


def test_one_step_per_rollout_needs_no_log_probs_from_before_it(scored):
    batch = scored()
    logprobs = batch[Role.POLICY]
    without = ScoredBatch(batch.tokens, {r: x for r, x in batch.scores.items() if r != Role.POLICY})
    found = []
    for method, rows in (
        (critic_free("grpo", kl_use_loss=True), batch),
        (critic_free("grpo", kl_use_loss=True, single_step=True), without),
    ):
        given = logprobs.clone().requires_grad_()
        assert method.roles <= rows.scores.keys()
        result = method.loss(PolicyOutput(given), method.targets(rows)[0], NORM)
        result.loss.backward()
        found.append((result.loss.item(), given.grad))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert found[0][1] is not None
    assert found[0][1].abs().sum() > 0


@pytest.mark.parametrize(
    "fields",
    [{}, {"kl_use_loss": True, "is_correction_enable": True}],
    ids=["kl_reward", "correction"],
)
def test_what_reads_the_policy_before_the_update_is_no_single_step(fields):
    with pytest.raises(ValueError, match="before the update"):
        critic_free("grpo", single_step=True, **fields)
