from __future__ import annotations

import dataclasses
import math
import pickle
import re
from typing import Any, cast

import pytest
import torch

from rto.functional.losses import aggregate
from rto.methods.ppo import PPO, PPOBatch
from rto.methods.settings.policy_gradient import PPOSettings
from rto.methods.sft import SFT
from rto.observe import observe
from rto.protocols import CriticMethod
from rto.registry import build
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig
from rto.types import LossNorm, PolicyOutput, Role, TrainBatch

TOKENS = 7 + 1 + 4 + 6 + 2 + 5
NORM = LossNorm(tokens=TOKENS, sequences=6, groups=3)


def test_is_a_critic_method_and_a_picklable_value():
    method: CriticMethod = PPO(kl_coef=0.3)
    assert isinstance(method, CriticMethod)
    assert not isinstance(SFT(), CriticMethod)
    assert pickle.loads(pickle.dumps(method)) == method
    assert method.roles == {Role.POLICY, Role.REFERENCE, Role.CRITIC, Role.REWARD}


def test_it_is_built_with_the_settings_of_the_configuration():
    tokenizer = cast(Any, None)
    assert build(RunConfig(), tokenizer, mode="online") == PPO()
    settings = PPOSettings(lambd=0.5, value_clip=None, kl_coef=0.2, eps_clip_low_high=(0.1, 0.3))
    built: Any = build(RunConfig(algo=Algo("ppo", settings)), tokenizer, mode="online")
    assert built == PPO(lambd=0.5, value_clip=None, kl_coef=0.2, eps_clip_low_high=(0.1, 0.3))
    assert (PPO().clip_low_high, built.clip_low_high) == ((0.2, 0.2), (0.1, 0.3))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kl_coef": -1}, "kl_coef is -1: must be 0 or more"),
        ({"reward_clip_range": (1, 1)}, "reward_clip_range is 1, 1: the first must be lower"),
        ({"is_correction_threshold": (5, 1)}, "is_correction_threshold is 5, 1: the first"),
        ({"lambd": 2}, "lambd is 2: must be at least 0 and at most 1"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(fields, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        PPO(**fields)


def test_targets_against_a_loop(scored):
    """Reward: clip to +-10, times the coefficient, at the last token; -kl_coef * k1 everywhere."""
    batch = scored()
    method = PPO(kl_coef=0.1, reward_coef=0.5, gamma=0.9, lambd=0.8)
    got, metrics = method.targets(batch)
    lengths = batch.tokens.response_mask.sum(-1).tolist()
    raw, totals = [], []
    for row, length in enumerate(lengths):
        policy, reference, value = (
            batch[role][row].tolist() for role in (Role.POLICY, Role.REFERENCE, Role.CRITIC)
        )
        reward = [-0.1 * (policy[t] - reference[t]) for t in range(length)]
        reward[-1] += 0.5 * min(max(float(batch[Role.REWARD][row]), -10), 10)
        totals.append(sum(reward))
        advantage, following = 0.0, 0.0
        backwards = []
        for t in reversed(range(length)):
            advantage = reward[t] + 0.9 * following - value[t] + 0.9 * 0.8 * advantage
            following = value[t]
            backwards.append(advantage)
            assert float(got.returns[row, t]) == pytest.approx(advantage + value[t], abs=1e-5)
        raw += backwards[::-1]
    mean = sum(raw) / TOKENS
    std = math.sqrt(sum((a - mean) ** 2 for a in raw) / TOKENS)
    whitened = torch.tensor([(a - mean) / std for a in raw])
    torch.testing.assert_close(got.advantages[batch.tokens.response_mask], whitened)
    assert metrics["advantage/mean"] == pytest.approx(mean, abs=1e-5)
    assert metrics["advantage/std"] == pytest.approx(std, abs=1e-5)
    assert metrics["return/mean"] == pytest.approx(sum(totals) / 6, abs=1e-5)


def test_without_std_norm_advantages_are_only_centred(scored):
    """The metrics tell of the advantages before that: the deviation is what whitening takes out."""
    batch = scored()
    mask = batch.tokens.response_mask
    scaled, metrics = PPO().targets(batch)
    centred, _ = PPO(no_std_norm=True).targets(batch)
    assert metrics["advantage/std"] > 1.5
    expected = scaled.advantages[mask] * metrics["advantage/std"]
    torch.testing.assert_close(centred.advantages[mask], expected)
    torch.testing.assert_close(centred.advantages[mask].mean(), torch.tensor(0.0))


@pytest.mark.parametrize(
    ("estimator", "of"),
    [
        ("k1", lambda d: d),
        ("k2", lambda d: d * d / 2),
        ("k3", lambda d: math.exp(-d) - 1 + d),
    ],
)
def test_the_reward_pays_for_the_kl_by_the_methods_own_estimator(scored, estimator, of):
    """So do the metrics, from which the coefficient is adapted."""
    batch = scored()
    method = PPO(kl_coef=0.3, kl_estimator=estimator)
    rewards, _ = method.total_rewards(batch, method.sentence_reward(batch))
    free, _ = PPO(kl_coef=0.0).total_rewards(batch, method.sentence_reward(batch))
    d = (batch[Role.POLICY] - batch[Role.REFERENCE])[batch.tokens.response_mask].tolist()
    paid = (free - rewards)[batch.tokens.response_mask]
    assert paid.tolist() == pytest.approx([0.3 * min(of(x), 10) for x in d], abs=1e-5)
    observed = method.targets(batch)[1]["kl/mean"]
    assert observed == pytest.approx(sum(min(of(x), 10) for x in d) / TOKENS, rel=1e-5)


def test_the_value_loss_is_reduced_as_the_policys(scored):
    """Unclipped, 0.5 (value - return)^2: averaged over tokens, or over tokens and then rows."""
    batch = scored()
    mask = batch.tokens.response_mask
    targets, _ = PPO().targets(batch)
    values = batch[Role.CRITIC] + 1.0
    error = (0.5 * (values - targets.returns).square()).masked_fill(~mask, 0)
    by_row = error.sum(-1) / mask.sum(-1)
    token, sequence = PPO(value_clip=None), PPO(value_clip=None, loss_reduction="sequence")
    for method, expected in ((token, error.sum() / TOKENS), (sequence, by_row.mean())):
        torch.testing.assert_close(method.value_loss(values, targets, NORM).loss, expected)
    assert not torch.allclose(error.sum() / TOKENS, by_row.mean())


def test_metrics_by_hand(scored):
    batch = scored()
    _, metrics = PPO().targets(batch)
    mask = batch.tokens.response_mask
    kl = (batch[Role.POLICY] - batch[Role.REFERENCE])[mask].sum()
    expected = {
        "reward/clipped_share": 2 / 6,
        "kl/mean": float(kl) / TOKENS,
        "kl/sequence": float(kl) / 6,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_nan_in_the_padding_changes_nothing(scored):
    clean, clean_metrics = PPO().targets(scored())
    dirty, dirty_metrics = PPO().targets(scored(fill=math.nan))
    assert clean_metrics == dirty_metrics
    for field in ("old_logprobs", "ref_logprobs", "advantages", "returns", "old_values"):
        assert torch.equal(getattr(clean, field), getattr(dirty, field)), field


def test_clip_settings_reach_the_losses(scored):
    batch = scored()
    targets, _ = PPO().targets(batch)
    output = PolicyOutput(batch[Role.POLICY] + 2.0)
    policy = [
        method.loss(output, targets, NORM).loss
        for method in (PPO(), PPO(dual_clip=1.5), PPO(eps_clip_low_high=(0.2, 0.5)))
    ]
    value = [
        PPO(value_clip=clip).value_loss(output.logprobs, targets, NORM).loss
        for clip in (0.2, 0.5, None)
    ]
    assert len({float(x) for x in policy}) == len({float(x) for x in value}) == 3


def test_kl_in_the_loss_leaves_the_reward_alone(scored):
    batch = scored()
    inside = PPO(kl_coef=0.5, kl_use_loss=True, kl_estimator="k2")
    targets, _ = inside.targets(batch)
    without, _ = PPO(kl_coef=0.0).targets(batch)
    assert torch.equal(targets.advantages, without.advantages)
    output = PolicyOutput(batch[Role.POLICY] - 0.1)
    extra = inside.loss(output, targets, NORM).loss - PPO().loss(output, targets, NORM).loss
    k2 = (output.logprobs - batch[Role.REFERENCE]).square() / 2
    torch.testing.assert_close(
        extra,
        0.5 * aggregate(k2, mask=batch.tokens.response_mask, norm=NORM, reduction="token"),
    )


def test_entropy_is_a_bonus(scored):
    batch = scored()
    method = PPO(entropy_coef=0.1)
    targets, _ = method.targets(batch)
    output = PolicyOutput(batch[Role.POLICY], entropy=torch.full((6, 7), 2.0))
    bonus = method.loss(output, targets, NORM).loss - PPO().loss(output, targets, NORM).loss
    assert float(bonus) == pytest.approx(-0.2, rel=1e-4)
    assert method.outputs == PPO(entropy_coef=0.0).outputs == {"entropy"}
    assert not PPO().outputs
    with pytest.raises(ValueError, match="has no entropy"):
        method.loss(PolicyOutput(batch[Role.POLICY]), targets, NORM)


def test_before_the_first_step_the_ratio_is_1_and_nothing_is_clipped(scored):
    batch = scored()
    targets, _ = PPO().targets(batch)
    metrics = PPO().loss(PolicyOutput(batch[Role.POLICY]), targets, NORM).metrics
    assert float(metrics["policy/ratio"]) == pytest.approx(1)
    assert metrics["policy/clip_share"] == 0
    assert metrics["policy/approx_kl"] == 0


def test_importance_correction_scales_the_loss(scored):
    """The sampler's log-probs are 0.125 above the trainer's: every weight is exp(-0.125)."""
    batch = scored()
    plain = PPO(loss_reduction="sequence")
    method = dataclasses.replace(plain, is_correction_enable=True)
    targets, _ = method.targets(batch)
    output = PolicyOutput(batch[Role.POLICY] + 0.05)
    corrected = method.loss(output, targets, NORM)
    ratio = corrected.loss / plain.loss(output, targets, NORM).loss
    assert float(ratio) == pytest.approx(math.exp(-0.125), rel=1e-4)
    assert float(corrected.metrics["policy/sampler_weight"]) == pytest.approx(math.exp(-0.125))


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_shards_of_whole_groups_sum_to_the_batch(scored, reduction):
    batch = scored()
    method = PPO(loss_reduction=reduction, entropy_coef=0.1, kl_use_loss=True, kl_estimator="k3")
    targets, _ = method.targets(batch)
    logprobs = (batch[Role.POLICY] - 0.1).requires_grad_()
    entropy = torch.rand(6, 7)

    def part(rows: list[int]) -> torch.Tensor:
        output = PolicyOutput(logprobs[rows], entropy[rows])
        shard = targets.take(rows)
        return (
            method.loss(output, shard, NORM).loss
            + method.value_loss(logprobs[rows], shard, NORM).loss
        )

    whole = part(list(range(6)))
    shards = part([4, 5]) + part([0, 1, 2, 3])
    torch.testing.assert_close(shards, whole)
    torch.testing.assert_close(
        torch.autograd.grad(shards, logprobs), torch.autograd.grad(whole, logprobs)
    )


def test_adapt_moves_the_coefficient_towards_the_target():
    metrics = {"kl/mean": 6.6, "kl/sequence": 99.0, "response/num": 256.0, "response/trained": 1.0}
    adaptive = PPO(kl_coef=0.2, kl_target=6.0, kl_horizon=2560)
    adapted = adaptive.adapt(metrics)
    assert adapted.kl_coef == pytest.approx(0.2 * 1.01)
    assert dataclasses.replace(adapted, kl_coef=0.2) == adaptive
    fixed = PPO(kl_coef=0.2)
    assert fixed.adapt(metrics) is fixed


def test_adapt_reads_what_the_loop_reports(scored):
    method = PPO(kl_target=0.1)
    _, metrics = method.targets(scored())
    assert isinstance(method.adapt({**observe(scored()), **metrics}), PPO)


def test_a_batch_of_another_method_is_refused(scored):
    batch = TrainBatch(scored().tokens)
    with pytest.raises(TypeError, match="got a TrainBatch, this loss reads a ActorBatch"):
        PPO().loss(PolicyOutput(torch.zeros(6, 7)), batch, NORM)


def test_targets_are_a_ppo_batch_without_gradient(scored):
    targets, _ = PPO().targets(scored())
    assert isinstance(targets, PPOBatch)
    assert not targets.advantages.requires_grad
