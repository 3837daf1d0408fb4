"""The methods under comparison, the rows they get, and the loop that trains them all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.studies.scalar.world import World, loss_norm
from rpo_ext.methods.dro import DRO
from rpo_ext.methods.kto import KTO
from rpo_ext.methods.rpo import RPO
from rto.data.loaders.rated import with_unrelated_responses
from rto.methods.sft import SFT
from rto.models.policy import Policy
from rto.protocols import CriticMethod, PolicyMethod
from rto.types import PolicyOutput, Role, ScoredBatch, TokenBatch

Rows = Literal["all", "best", "shuffled"]


@dataclass(frozen=True)
class Arm:
    """``method`` makes the method of a strength: its temperature tau or KTO's beta. SFT has none:
    its strength is the share of the updates that it makes."""

    method: Callable[[float], PolicyMethod]
    rows: Rows = "all"
    is_sft: bool = False


ARMS: Mapping[str, Arm] = {
    "sft_all": Arm(lambda _: SFT(), is_sft=True),
    "sft_best": Arm(lambda _: SFT(), rows="best", is_sft=True),
    "rpo": Arm(lambda tau: RPO(tau=tau)),
    "rpo_mean": Arm(lambda tau: RPO(tau=tau, reduction="mean")),
    "rpo_ref": Arm(lambda tau: RPO(tau=tau, estimator="ref", reduction="mean")),
    "rpo_batch_mean": Arm(lambda tau: RPO(tau=tau, estimator="batch_mean", reduction="mean")),
    "rpo_loo": Arm(lambda tau: RPO(tau=tau, estimator="loo")),
    "dro": Arm(lambda tau: DRO(tau=tau)),
    "dro_shared_head": Arm(lambda tau: DRO(tau=tau, variant="shared_head", reduction="mean")),
    "dro_prompt_variance": Arm(lambda tau: DRO(tau=tau, variant="prompt_variance")),
    "kto": Arm(lambda beta: KTO(beta=beta)),
    "kto_matched_mean": Arm(lambda beta: KTO(beta=beta, variant="matched_mean")),
}
MAIN = ("sft_best", "rpo", "rpo_ref", "dro", "kto")
"""The arms that are also run at other N and off-policy."""


def rows_of(stored: ScoredBatch, rows: Rows, *, each: int, responses: int, seed: int) -> Data:
    """The first ``responses`` of ``each`` stored answers to a prompt, or what becomes of them."""
    index = torch.arange(len(stored)).view(-1, each)[:, :responses]
    data = stored.take(index.flatten())
    rewards = data[Role.REWARD].view(-1, responses)
    if rows == "best":
        best = torch.arange(len(rewards)) * responses + rewards.argmax(-1)
        return Data(data.take(best), 1)
    if rows == "shuffled":
        rng = torch.Generator().manual_seed(seed)
        rewards = rewards.gather(1, torch.rand(rewards.shape, generator=rng).argsort(1))
        data = data.with_scores({Role.REWARD: rewards.flatten()})
    return Data(data, responses)


@dataclass(frozen=True)
class Data:
    """Rows of one prompt are neighbours, ``responses`` of each."""

    rows: ScoredBatch
    responses: int

    def batches(self, size: int, *, seed: int) -> Iterator[ScoredBatch]:
        """Whole prompts, ``size`` rows at a time, in a new order each epoch, for ever."""
        rng = torch.Generator().manual_seed(seed)
        index = torch.arange(len(self.rows)).view(-1, self.responses)
        prompts = min(size // self.responses, len(index))
        while True:
            order = torch.randperm(len(index), generator=rng)
            for start in range(0, len(order) - prompts + 1, prompts):
                yield self.rows.take(index[order[start : start + prompts]].flatten())


@dataclass(frozen=True)
class Trainee:
    """A policy at the reference, with the critic and the head that its method asks for."""

    method: PolicyMethod
    policy: Policy
    critic: torch.nn.Module | None
    reference: Policy

    @classmethod
    def start(cls, method: PolicyMethod, world: World, *, seed: int) -> Trainee:
        torch.manual_seed(seed)
        policy = world.policy(value_head="value" in method.outputs)
        critic = world.critic() if Role.CRITIC in method.roles else None
        return cls(method, policy.train(), critic, world.reference)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        critic = [] if self.critic is None else list(self.critic.parameters())
        return [*self.policy.parameters(), *critic]

    def loss(self, batch: ScoredBatch) -> Tensor:
        """The policy's loss plus the critic's, which share no parameter."""
        output = self.output(batch.tokens)
        scores = {Role.POLICY: output.logprobs.detach()}
        values = None if self.critic is None else self.critic(batch.tokens)
        if values is not None:
            scores[Role.CRITIC] = values.detach()
        if Role.UNRELATED in self.method.roles:
            scores[Role.UNRELATED] = self._unrelated(batch.tokens)
        targets, _ = self.method.targets(batch.with_scores(scores))
        norm = loss_norm(batch.tokens)
        loss = self.method.loss(output, targets, norm).loss
        if values is not None and isinstance(self.method, CriticMethod):
            loss = loss + self.method.value_loss(values, targets, norm).loss
        return loss

    def output(self, tokens: TokenBatch) -> PolicyOutput:
        return self.policy(tokens, with_value="value" in self.method.outputs)

    @torch.no_grad()
    def values(self, tokens: TokenBatch) -> Tensor | None:
        """What the method has learned of V(x) [B]; None if it learns none."""
        if self.critic is not None:
            return self.critic(tokens)[:, 0]
        return self.output(tokens).value

    @torch.no_grad()
    def _unrelated(self, tokens: TokenBatch) -> Tensor:
        mismatched = with_unrelated_responses(tokens)
        log_ratio = self.policy(mismatched).logprobs - self.reference(mismatched).logprobs
        return log_ratio.sum(-1)


def train(
    trainee: Trainee, data: Data, *, rows: int, lr: float, updates: int, seed: int
) -> Iterator[float]:
    """CPU seconds so far, before the first and after each update.

    AdamW without weight decay, 10% warm-up, then linear decay to 0.
    """
    optimizer: Any = torch.optim.AdamW(trainee.parameters, lr=lr, weight_decay=0.0, fused=True)
    warmup = max(1, updates // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / warmup, (updates - n) / max(1, updates - warmup))
    )
    spent = 0.0
    yield spent
    batches = data.batches(rows, seed=seed)
    for _ in range(updates):
        started = time.thread_time()
        loss = trainee.loss(next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        spent += time.thread_time() - started
        yield spent
