from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch
from token_rows import token_batch

from rto.methods.ppo import PPO
from rto.methods.rto import DpoTokenReward
from rto.methods.settings.policy_gradient import RTOSettings
from rto.protocols import CriticMethod, TokenReward
from rto.types import LossNorm, PolicyOutput, Role, ScoredBatch

NORM = LossNorm(tokens=25, sequences=6, groups=3)
VARIANTS = ["token", "semi", "delayed", "shaping"]
SEGMENT_ENDS = (1, 3)


def rto(settings: dict[str, Any] | None = None, **options: Any) -> PPO:
    """RTO with these settings of PPO and these fields of its token reward."""
    reward = DpoTokenReward(**{"segment_end_ids": SEGMENT_ENDS, **options})
    return PPO(card=RTOSettings().card, token_rewards=(reward,), **settings or {})


def total_rewards(method: PPO, batch: ScoredBatch) -> torch.Tensor:
    return method.total_rewards(batch, method.sentence_reward(batch))[0]


def assert_same_training(method: PPO, batch) -> None:
    """Every field of the train batch, both losses and their metrics equal PPO's, bit for bit."""
    ppo = PPO()
    ours, our_metrics = method.targets(batch)
    theirs, their_metrics = ppo.targets(batch)
    for field in dataclasses.fields(theirs):
        if field.name != "tokens":
            assert torch.equal(getattr(ours, field.name), getattr(theirs, field.name)), field.name
    assert ours.tokens is theirs.tokens
    assert their_metrics.items() <= our_metrics.items()
    output = PolicyOutput(batch[Role.POLICY] - 0.3)
    for our, their in (
        (method.loss(output, ours, NORM), ppo.loss(output, theirs, NORM)),
        (
            method.value_loss(output.logprobs, ours, NORM),
            ppo.value_loss(output.logprobs, theirs, NORM),
        ),
    ):
        assert torch.equal(our.loss, their.loss)
        assert our.metrics == their.metrics


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_ppo_when_the_dpo_policy_is_the_reference(scored, variant):
    batch = scored(dpo=scored()[Role.REFERENCE])
    assert_same_training(rto(variant=variant), batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_ppo_at_scale_0_and_asks_for_no_dpo_policy(scored, variant):
    method = rto(variant=variant, scale=0.0, separate_reference=True)
    assert_same_training(method, scored())
    assert method.roles == PPO().roles
    assert not any(name.startswith("dpo/") for name in method.targets(scored())[1])


def test_differs_from_ppo_otherwise(scored):
    ours, _ = rto().targets(scored())
    theirs, _ = PPO().targets(scored())
    assert not torch.equal(ours.advantages, theirs.advantages)


def reward_parts(method: PPO, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of each row's token rewards, and where they differ from PPO's."""
    rewards, ppo = total_rewards(method, batch), total_rewards(PPO(), batch)
    return rewards.sum(-1), (rewards - ppo).abs() > 1e-7


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # 0.08 - 0.1; -0.05 + 0.2; 0.02 - 0.05 + 6
        ("token", [-0.02, 0.15, 5.97]),
        # The second token ends a segment: 0.08 - 0.05 there, 0.02 at the end.
        ("semi", [-0.10, 0.23, 5.97]),
        # All 0.05 at the end.
        ("delayed", [-0.10, 0.20, 6.00]),
        # As "token", less the 0.05 at the end.
        ("shaping", [-0.02, 0.15, 5.92]),
    ],
)
def test_the_total_reward_by_hand(variant, expected: list[float]):
    """r = beta_1 log(pi_dpo / pi_ref) - beta_2 log(pi / pi_ref) + beta_3 reward at the last token.

    log(pi_dpo / pi_ref) is 1, -0.5, 0.2: times 0.1 and within +-0.08 it pays 0.08, -0.05, 0.02.
    log(pi / pi_ref) is 0.2, -0.4, 0.1: times 0.5 it costs 0.1, -0.2, 0.05. The reward of 3 counts
    twice. A second response of one token is paid 0.1 * -0.3 - 0.5 * 0.6 + 2 * -1 = -2.33.
    """
    tokens = token_batch([[7], [7]], [[4, 3, 2], [2]])
    reference = torch.tensor([[-2.0, -1.0, -1.5], [-1.0, math.nan, math.nan]])
    scores = {
        Role.REFERENCE: reference,
        Role.POLICY: reference + torch.tensor([[0.2, -0.4, 0.1], [0.6, 0.0, 0.0]]),
        Role.DPO: reference + torch.tensor([[1.0, -0.5, 0.2], [-0.3, 0.0, 0.0]]),
        Role.REWARD: torch.tensor([3.0, -1.0]),
    }
    method = rto(
        {"kl_coef": 0.5, "reward_coef": 2.0},
        scale=0.1,
        clip=0.08,
        variant=variant,
        segment_end_ids=(3,),
    )
    rewards = total_rewards(method, ScoredBatch(tokens, scores))
    alone = -2.30 if variant == "shaping" else -2.33
    assert rewards[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert rewards[1].tolist() == pytest.approx([alone, 0, 0], abs=1e-5)


def test_sums_of_the_variants(scored):
    batch = scored()
    total, _ = reward_parts(rto(), batch)
    for variant in ("semi", "delayed"):
        torch.testing.assert_close(reward_parts(rto(variant=variant), batch)[0], total)
    ppo = total_rewards(PPO(), batch)
    shaped, _ = reward_parts(rto(variant="shaping"), batch)
    torch.testing.assert_close(shaped, ppo.sum(-1))
    assert not torch.allclose(total, shaped)


def test_places_of_the_variants(scored):
    batch = scored()
    mask = batch.tokens.response_mask
    last = torch.arange(7) == mask.sum(-1, keepdim=True) - 1
    ends = (torch.isin(batch.tokens.response_ids, torch.tensor(SEGMENT_ENDS)) & mask) | last
    assert 6 < int(ends.sum()) < int(mask.sum()), "some segments end inside a response"
    assert torch.equal(reward_parts(rto(), batch)[1], mask)
    assert torch.equal(reward_parts(rto(variant="semi"), batch)[1], ends)
    assert torch.equal(reward_parts(rto(variant="delayed"), batch)[1], last)
    one_token = mask.sum(-1, keepdim=True) == 1
    shaped = reward_parts(rto(variant="shaping"), batch)[1]
    assert torch.equal(shaped, mask & ~one_token)


def test_the_reference_of_the_dpo_policy(scored):
    batch = scored()
    shared, separate = rto(), rto(separate_reference=True)
    assert shared.roles == PPO().roles | {Role.DPO}
    assert separate.roles == shared.roles | {Role.DPO_REFERENCE}
    swapped = scored(reference=batch[Role.DPO_REFERENCE])
    expected = total_rewards(shared, swapped) - total_rewards(PPO(), swapped)
    got = total_rewards(separate, batch) - total_rewards(PPO(), batch)
    torch.testing.assert_close(got, expected)


def test_metrics_by_hand(scored):
    batch = scored()
    method = rto({"reward_coef": 2.0}, scale=0.1, clip=0.08)
    _, metrics = method.targets(batch)
    mask = batch.tokens.response_mask
    terms, clipped, sums = [], 0, []
    for row, length in enumerate(mask.sum(-1).tolist()):
        raw = (0.1 * (batch[Role.DPO] - batch[Role.REFERENCE]))[row, :length].tolist()
        kept = [min(max(x, -0.08), 0.08) for x in raw]
        clipped += sum(a != b for a, b in zip(raw, kept, strict=True))
        terms += kept
        sums.append(sum(kept))
    rewards = [2 * r for r in (10, -0.5, 0.25, 1.5, -10, 3)]
    assert 0 < clipped < len(terms)

    def std(x: list[float]) -> float:
        return math.sqrt(sum((a - sum(x) / len(x)) ** 2 for a in x) / len(x))

    expected = {
        "dpo/sum_mean": sum(sums) / 6,
        "dpo/sum_std": std(sums),
        "dpo/token_mean": sum(terms) / 25,
        "dpo/clipped_share": clipped / 25,
        "dpo/to_reward_std_ratio": std(sums) / std(rewards),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_nan_in_the_padding_changes_nothing(scored):
    for variant in VARIANTS:
        method = rto(variant=variant)
        clean, clean_metrics = method.targets(scored())
        dirty, dirty_metrics = method.targets(scored(fill=math.nan))
        assert clean_metrics == dirty_metrics
        assert torch.equal(clean.advantages, dirty.advantages)


def test_settings_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match=r"dpo_reward_scale is -0\.5: 0 disables"):
        DpoTokenReward(scale=-0.5)
    with pytest.raises(ValueError, match=r"dpo_reward_clip is -1: 0 disables"):
        DpoTokenReward(clip=-1)
    with pytest.raises(ValueError, match="segment_end_ids is empty"):
        DpoTokenReward(variant="semi")


def test_identity_and_defaults():
    method: CriticMethod = rto()
    assert (method.card.name, str(method.card)) == (
        "rto",
        "Reinforced Token Optimization (arXiv 2404.18922)",
    )
    settings = RTOSettings()
    reward = DpoTokenReward()
    assert (reward.scale, reward.clip, reward.variant) == (
        settings.dpo_reward_scale,
        settings.dpo_reward_clip,
        settings.dpo_reward_variant,
    )


def test_adapt_keeps_the_method():
    method = rto({"kl_target": 0.1}, variant="semi")
    adapted = method.adapt({"kl/mean": 1.0, "response/num": 100.0})
    assert adapted == dataclasses.replace(method, kl_coef=adapted.kl_coef)
    assert adapted.kl_coef > method.kl_coef


@dataclasses.dataclass(frozen=True)
class OnePerToken:
    """A token reward of the test's own."""

    worth: float
    roles: frozenset[Role] = frozenset({Role.SAMPLER})

    def __call__(self, batch: ScoredBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        paid = self.worth * batch.tokens.response_mask.float()
        return paid, {"own/sum_std": paid.sum(-1).std(correction=0)}


def test_token_rewards_add_up_and_each_is_measured_against_the_sentence(scored):
    batch = scored()
    rewards: tuple[TokenReward, ...] = (DpoTokenReward(), OnePerToken(0.5), OnePerToken(0.25))
    method = PPO(card=RTOSettings().card, token_rewards=rewards)
    assert pickle.loads(pickle.dumps(method)) == method
    assert method.roles == PPO().roles | {Role.DPO, Role.SAMPLER}
    alone = total_rewards(PPO(token_rewards=rewards[:1]), batch)
    mask = batch.tokens.response_mask
    torch.testing.assert_close(total_rewards(method, batch), alone + 0.75 * mask)
    _, metrics = method.targets(batch)
    lengths = mask.sum(-1).float()
    std = method.sentence_reward(batch).std(correction=0)
    expected = float(0.25 * lengths.std(correction=0) / std)
    assert metrics["own/to_reward_std_ratio"] == pytest.approx(expected)
    assert metrics["dpo/to_reward_std_ratio"] != metrics["own/to_reward_std_ratio"]


def test_a_token_reward_is_not_measured_without_its_deviation(scored):
    batch = scored()
    plain = dataclasses.replace(OnePerToken(1.0), roles=frozenset())
    reward: TokenReward = WithoutMetrics(plain)
    _, metrics = PPO(token_rewards=(reward,)).targets(batch)
    assert not any("to_reward_std_ratio" in name for name in metrics)


@dataclasses.dataclass(frozen=True)
class WithoutMetrics:
    inner: OnePerToken

    @property
    def roles(self) -> frozenset[Role]:
        return self.inner.roles

    def __call__(self, batch: ScoredBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.inner(batch)[0], {}
