"""Pairs on the task of ``transformer``, and the DPO policy and reward model trained on them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from benchmarks.studies.transformer import Base, Sizes, fit, fit_policy, reward_model
from rto.methods.preference import DPO
from rto.methods.reward_model import RewardModel
from rto.models.causal import CausalPolicy
from rto.models.heads import SequenceReward
from rto.types import Role, ScoredBatch, TokenBatch


@dataclass(frozen=True)
class Feedback:
    pairs: int = 4096
    passes: int = 2
    rows: int = 64
    """Of an optimizer step: two a pair."""
    lr: float = 1e-3
    beta: float = 0.1
    """DPO's."""


@dataclass(frozen=True)
class World:
    """What all arms of one seed share."""

    base: Base
    dpo: CausalPolicy
    reward: SequenceReward
    constants: tuple[float, float]
    """Mean and standard deviation of the reward model on the reference's responses."""
    correlations: tuple[float, float]
    """With the true reward there: of the sum of DPO's log-ratios, and of the reward model."""

    @classmethod
    def make(cls, sizes: Sizes, feedback: Feedback, seed: int) -> World:
        base = Base.make(sizes, seed)
        rng = torch.Generator().manual_seed(seed)
        pairs = sample_pairs(base, feedback.pairs, rng)
        dpo = fit_dpo(base, pairs, feedback, rng)
        model = fit_reward(base, pairs, feedback, rng)
        drawn = base.sample(base.reference, 2048, rng)
        with torch.no_grad():
            rewards = model(drawn)
            terms = dpo(drawn).logprobs - base.reference(drawn).logprobs
        true = base.task.true_reward(drawn)
        found = torch.corrcoef(torch.stack([terms.sum(-1), rewards, true]))
        return cls(
            base=base,
            dpo=dpo,
            reward=model,
            constants=(float(rewards.mean()), float(rewards.std())),
            correlations=(float(found[0, 2]), float(found[1, 2])),
        )


def sample_pairs(base: Base, count: int, rng: torch.Generator) -> TokenBatch:
    """Pairs from the reference, labelled by Bradley-Terry on the true reward; chosen rows first."""
    drawn = base.sample(base.reference, 2 * count, rng, each=2)
    reward = base.task.true_reward(drawn)
    first_wins = torch.rand(count, generator=rng) < (reward[0::2] - reward[1::2]).sigmoid()
    rows = torch.arange(2 * count).view(count, 2)
    return drawn.take(torch.where(first_wins.unsqueeze(-1), rows, rows.flip(-1)).flatten())


def fit_dpo(
    base: Base, pairs: TokenBatch, feedback: Feedback, rng: torch.Generator
) -> CausalPolicy:
    policy = copy.deepcopy(base.reference).requires_grad_()
    with torch.no_grad():
        scored = ScoredBatch(pairs, {Role.REFERENCE: base.reference(pairs).logprobs})
    fit_policy(
        policy,
        DPO(beta=feedback.beta),
        scored,
        passes=feedback.passes,
        size=feedback.rows,
        lr=feedback.lr,
        rng=rng,
    )
    return policy.requires_grad_(False)


def fit_reward(
    base: Base, pairs: TokenBatch, feedback: Feedback, rng: torch.Generator
) -> SequenceReward:
    model, pairwise = reward_model(base.reference, rng), RewardModel()
    batch, _ = pairwise.targets(ScoredBatch(pairs, {}))
    fit(
        model,
        batch,
        lambda part, norm: pairwise.score_loss(model(part.tokens), part, norm).loss,
        passes=feedback.passes,
        size=feedback.rows,
        lr=feedback.lr,
        rng=rng,
    )
    return model.requires_grad_(False)
