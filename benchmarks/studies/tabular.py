"""A token-level decision problem small enough to be exact: policies, values and rewards are tables.

Responses have a fixed length H over V tokens and no prompt. A state is (position, token before it);
the true reward of a response is a sum of one number per (token before, token), which no learner
sees. Everything that is trained on it is trained by the package's own methods and losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rto.functional.losses import pairwise_loss
from rto.functional.preference import dpo_loss
from rto.types import LossNorm, TokenBatch


@dataclass(frozen=True)
class Task:
    """Tables indexed by the token before, V at the start of a response.

    ``reference`` holds the log-probs of the policy that everything starts from [H, V + 1, V],
    ``reward`` the true reward of a token [V + 1, V].
    """

    reference: Tensor
    reward: Tensor

    @classmethod
    def make(cls, *, length: int, vocabulary: int, seed: int) -> Task:
        """Rewards whose sum over a response has a standard deviation of about 1."""
        rng = torch.Generator().manual_seed(seed)
        logits = torch.randn(length, vocabulary + 1, vocabulary, generator=rng)
        reward = torch.randn(vocabulary + 1, vocabulary, generator=rng) / length**0.5
        return cls(logits.log_softmax(-1), reward)

    @property
    def length(self) -> int:
        return len(self.reference)

    @property
    def vocabulary(self) -> int:
        return self.reference.shape[-1]

    def value(self, policy: Tensor) -> tuple[float, float]:
        """Expected true reward of log-probs [H, V + 1, V] and KL(policy || reference), exactly."""
        at = torch.zeros(self.vocabulary + 1)
        at[-1] = 1
        reward = kl = 0.0
        for step, reference in zip(policy.exp(), self.reference, strict=True):
            joint = at.unsqueeze(-1) * step
            reward += float((joint * self.reward).sum())
            kl += float((joint * (step.clamp(min=1e-30).log() - reference)).sum())
            at = torch.cat([joint.sum(0), torch.zeros(1)])
        return reward, kl

    def best(self) -> float:
        """The true reward of the best response."""
        ahead = torch.zeros(self.vocabulary)
        for _ in range(self.length - 1):
            ahead = (self.reward[:-1] + ahead).max(-1).values
        return float((self.reward[-1] + ahead).max())


class Responses(NamedTuple):
    """Tokens and the tokens before them, both [B, H]."""

    ids: Tensor
    before: Tensor

    def look_up(self, table: Tensor) -> Tensor:
        """Entries [B, H] of a table [H, V + 1, V], or [H, V + 1] of states."""
        at = torch.arange(self.ids.shape[1]).expand_as(self.ids)
        found = table[at, self.before]
        return found if table.ndim == 2 else found.gather(-1, self.ids.unsqueeze(-1)).squeeze(-1)

    def true_reward(self, task: Task) -> Tensor:
        return task.reward[self.before, self.ids].sum(-1)

    def tokens(self, sampler_logprobs: Tensor) -> TokenBatch:
        count = len(self.ids)
        everywhere = torch.ones_like(self.ids, dtype=torch.bool)
        return TokenBatch(
            prompt_ids=torch.zeros(count, 1, dtype=torch.long),
            prompt_mask=torch.ones(count, 1, dtype=torch.bool),
            response_ids=self.ids,
            response_mask=everywhere,
            sampler_logprobs=sampler_logprobs,
            finished=torch.ones(count, dtype=torch.bool),
            group=torch.arange(count),
        )


def sample(policy: Tensor, count: int, rng: torch.Generator) -> Responses:
    """Draws from log-probs [H, V + 1, V]."""
    last = torch.full((count,), policy.shape[-1])
    ids, before = [], []
    for step in policy.exp():
        before.append(last)
        last = torch.multinomial(step[last], 1, generator=rng).squeeze(-1)
        ids.append(last)
    return Responses(torch.stack(ids, 1), torch.stack(before, 1))


def sample_pairs(task: Task, count: int, rng: torch.Generator) -> Responses:
    """Pairs from the reference, labelled by Bradley-Terry on the true reward; chosen rows first."""
    drawn = sample(task.reference, 2 * count, rng)
    reward = drawn.true_reward(task)
    first_wins = torch.rand(count, generator=rng) < (reward[0::2] - reward[1::2]).sigmoid()
    rows = torch.arange(2 * count).view(count, 2)
    rows = torch.where(first_wins.unsqueeze(-1), rows, rows.flip(-1)).flatten()
    return Responses(drawn.ids[rows], drawn.before[rows])


def fit_dpo(task: Task, pairs: Responses, *, beta: float, steps: int, lr: float) -> Tensor:
    """Log-probs [H, V + 1, V] of a policy trained by DPO from the reference, whole batches."""
    table = task.reference.clone().requires_grad_()
    ref = pairs.look_up(task.reference)
    mask = torch.ones_like(ref, dtype=torch.bool)
    norm = LossNorm(tokens=ref.numel(), sequences=len(ref), groups=len(ref) // 2)
    optimizer = torch.optim.Adam([table], lr=lr)
    for _ in range(steps):
        logprobs = pairs.look_up(table.log_softmax(-1))
        loss = dpo_loss(logprobs=logprobs, ref_logprobs=ref, mask=mask, norm=norm, beta=beta).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return table.detach().log_softmax(-1)


def fit_reward(task: Task, pairs: Responses, *, steps: int, lr: float) -> Tensor:
    """A linear Bradley-Terry model: one number per (token before, token) [V + 1, V]."""
    table = torch.zeros_like(task.reward).requires_grad_()
    optimizer = torch.optim.Adam([table], lr=lr)
    for _ in range(steps):
        score = table[pairs.before, pairs.ids].sum(-1)
        count = len(score) // 2
        loss = pairwise_loss(chosen=score[0::2], rejected=score[1::2], num_pairs=count).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return table.detach()
