"""Reward Partitioning on a tiny T5 does what it is for: log-ratios come to follow the rewards."""

from __future__ import annotations

from pathlib import Path

import torch

from rpo_ext.methods.rpo import RPO
from rto.data.examples import Example, collate_groups
from rto.functional.masked import masked_sum
from rto.functional.segments import within_group_correlation
from rto.models.families import load_policy
from rto.types import LossNorm, Role, ScoredBatch


def test_rpo_raises_the_correlation_of_log_ratio_and_reward(tiny_t5_dir: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    groups = [
        [
            Example(
                (3 + prompt, 1), (*torch.randint(10, 50, (4,), generator=rng).tolist(), 1), True
            )
            for _ in range(4)
        ]
        for prompt in range(6)
    ]
    tokens = collate_groups(groups, pad_token_id=0)
    rewards = torch.randn(24, generator=rng)
    policy = load_policy(str(tiny_t5_dir), dtype=torch.float32, attn_implementation="sdpa").train()
    reference = policy(tokens).logprobs.detach()
    method = RPO(tau=1.0)
    scored = ScoredBatch(tokens, {Role.REWARD: rewards, Role.REFERENCE: reference})
    batch, _ = method.targets(scored)
    norm = LossNorm(tokens=int(tokens.response_mask.sum()), sequences=24, groups=6)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = method.loss(policy(tokens), batch, norm).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    log_ratio = masked_sum(
        policy(tokens).logprobs.detach() - reference, tokens.response_mask, dim=-1
    )
    assert losses[-1] < losses[0] / 4
    assert within_group_correlation(log_ratio, rewards, tokens.group) > 0.9
