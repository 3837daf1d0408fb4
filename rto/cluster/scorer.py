"""Scores of a batch: policy and critic ranks, frozen models and reward sources, at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rto.batching.shards import shard_rows, unshard
from rto.cluster.calls import Scored, Scorers, Trainers
from rto.cluster.groups import Pending
from rto.data.loaders.rated import with_unrelated_responses
from rto.scoring.combine import combine
from rto.scoring.dropped import whole_groups
from rto.types import Role, Rollout, ScoredBatch, TokenBatch, widen

TextReward = Callable[[list[str], list[str], list[str]], Sequence[float | None]]
"""queries (prompt + response), prompts, labels -> one number per response, or None for one whose
prompt is left out."""


@dataclass(frozen=True)
class RewardSources:
    """Reward models on the scorer actors first, then functions and servers, with weights.

    ``normalise`` holds (mean, std) per reward model: r -> (r - mean) / std.
    """

    normalise: Sequence[tuple[float, float]] = ()
    texts: Sequence[tuple[str, TextReward]] = ()
    weights: Sequence[float] = ()
    model_names: Sequence[str] = ()
    ends: Mapping[int, str] = field(default_factory=dict)
    """The tokens that end a response, as text: the one that it has closes its query, as OpenRLHF's
    contract has it."""
    rows_per_step: int = 1
    """Rows of an optimizer step."""


class RewardMemory(Protocol):
    """Raw numbers that a source gave to these responses before."""

    def recall(self, source: str, rollouts: Sequence[Rollout]) -> list[float] | None: ...

    def keep(
        self, source: str, rollouts: Sequence[Rollout], rewards: Sequence[float | None]
    ) -> None: ...


@dataclass(frozen=True)
class Forgetful:
    """Implements ``RewardMemory`` for runs that keep none."""

    def recall(self, source: str, rollouts: Sequence[Rollout]) -> list[float] | None:
        return None

    def keep(
        self, source: str, rollouts: Sequence[Rollout], rewards: Sequence[float | None]
    ) -> None:
        return None


@dataclass(frozen=True)
class ClusterScorer:
    """Implements ``Scorer``."""

    policy: Trainers | None = None
    critic: Trainers | None = None
    frozen: Scorers | None = None
    rewards: RewardSources = field(default_factory=RewardSources)
    kept: RewardMemory = Forgetful()

    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        lengths = tokens.lengths.tolist()
        trained = {Role.POLICY: self.policy, Role.CRITIC: self.critic}
        running = {
            role: _start(group, tokens, lengths) for role, group in trained.items()
            if role in roles and group is not None
        }  # fmt: skip
        frozen_roles = roles - set(trained) - {Role.SAMPLER, Role.UNRELATED}
        models = self._recalled(rollouts) if Role.REWARD in roles else []
        frozen = self._start_frozen(
            tokens, lengths, frozen_roles - {Role.REWARD} if models else frozen_roles
        )
        scores: dict[Role, Tensor] = {}
        texts: list[Sequence[float | None]] = []
        if Role.REWARD in roles:
            texts = self._text_rewards(rollouts)
        for role, (pending, shards) in running.items():
            scores[role] = widen(unshard(pending.get(), shards), tokens)
        if frozen is not None:
            logprobs, fresh = _gather(frozen, tokens)
            scores |= logprobs
            models = models or self._noted(fresh, rollouts)
        if Role.SAMPLER in roles:
            scores[Role.SAMPLER] = tokens.sampler_logprobs
        if Role.UNRELATED in roles:
            scores[Role.UNRELATED] = self._unrelated(tokens)
        scored = ScoredBatch(tokens=tokens, scores=scores)
        if Role.REWARD in roles:
            scored = self._rewarded(scored, models, texts, rollouts)
        demand_all(roles, scored.scores, "nobody scores")
        return scored

    def _rewarded(
        self,
        scored: ScoredBatch,
        models: Sequence[Tensor],
        texts: Sequence[Sequence[float | None]],
        rollouts: Sequence[Rollout],
    ) -> ScoredBatch:
        """With the reward of each row, or of the rows that are left where some have none."""
        left = self._left(scored.tokens, texts)
        if left is not None:
            scored, models = scored.take(left), [raw[left] for raw in models]
            texts = [[text[row] for row in left] for text in texts]
            rollouts = [rollouts[row] for row in left]
        rewards = self._combined(models, texts, rollouts)
        return scored.with_scores({Role.REWARD: rewards})

    def _left(
        self, tokens: TokenBatch, texts: Sequence[Sequence[float | None]]
    ) -> list[int] | None:
        groups = [group for group in (self.policy, self.critic) if group is not None]
        return whole_groups(
            tokens.group.tolist(),
            texts,
            rows_per_step=self.rewards.rows_per_step,
            ranks=max((group.num_shards for group in groups), default=1),
        )

    def _unrelated(self, tokens: TokenBatch) -> Tensor:
        """Log pi/pi_ref [B] of each row's prompt with a response to the next prompt."""
        shuffled = with_unrelated_responses(tokens)
        scored = self.score(shuffled, [], frozenset({Role.POLICY, Role.REFERENCE}))
        log_ratio = scored[Role.POLICY] - scored[Role.REFERENCE]
        return log_ratio.masked_fill(~shuffled.response_mask, 0).sum(-1)

    def _start_frozen(
        self, tokens: TokenBatch, lengths: list[int], roles: frozenset[Role]
    ) -> tuple[Pending[Scored], list[list[int]]] | None:
        wanted = roles if self.rewards.normalise else roles - {Role.REWARD}
        if self.frozen is None or not wanted:
            return None
        shards = shard_rows(lengths, len(self.frozen), tokens.group.tolist())
        return self.frozen.score([_rows(tokens, shard) for shard in shards], wanted), shards

    def _text_rewards(self, rollouts: Sequence[Rollout]) -> list[Sequence[float | None]]:
        prompts = [r.prompt.text for r in rollouts]
        queries = [r.prompt.text + r.text + self._end(r) for r in rollouts]
        labels = [r.prompt.label or "" for r in rollouts]
        found: list[Sequence[float | None]] = []
        for number, (_, fn) in enumerate(self.rewards.texts):
            source = f"{number} {fn}"
            rewards: Sequence[float | None] | None = self.kept.recall(source, rollouts)
            if rewards is None:
                rewards = fn(queries, prompts, labels)
                self.kept.keep(source, rollouts, rewards)
            found.append(rewards)
        return found

    def _recalled(self, rollouts: Sequence[Rollout]) -> list[Tensor]:
        """Raw scores of the reward models, where those of all of them are kept."""
        found = [self.kept.recall(name, rollouts) for name in self.rewards.model_names]
        if None in found:
            return []
        return [torch.tensor(scores) for scores in found]

    def _noted(self, models: list[Tensor], rollouts: Sequence[Rollout]) -> list[Tensor]:
        """The same scores, one of each reward model, which are kept."""
        for name, scores in zip(self.rewards.model_names, models, strict=False):
            self.kept.keep(name, rollouts, scores.tolist())
        return models

    def _end(self, rollout: Rollout) -> str:
        return self.rewards.ends[rollout.token_ids[-1]] if rollout.finished else ""

    def _combined(
        self,
        models: Sequence[Tensor],
        texts: Sequence[Sequence[float | None]],
        rollouts: Sequence[Rollout],
    ) -> Tensor:
        constants = self.rewards.normalise
        scaled = [(raw - mean) / std for raw, (mean, std) in zip(models, constants, strict=True)]
        names = [*self.rewards.model_names, *(name for name, _ in self.rewards.texts)]
        given = [torch.tensor(text) for text in texts]
        return combine(
            [*scaled, *given], weights=self.rewards.weights, names=names, rollouts=rollouts
        )


def _start(
    trainers: Trainers, tokens: TokenBatch, lengths: list[int]
) -> tuple[Pending[Tensor], list[list[int]]]:
    shards = shard_rows(lengths, trainers.num_shards, tokens.group.tolist())
    return trainers.score([_rows(tokens, shard) for shard in shards]), shards


def _rows(tokens: TokenBatch, shard: list[int]) -> TokenBatch:
    """A shard without its common padding. One without rows repeats row 0, which ``unshard``
    drops: all ranks of a sharded model take part in every forward."""
    return tokens.take(shard or [0]).trim()


def _gather(
    frozen: tuple[Pending[Scored], list[list[int]]], tokens: TokenBatch
) -> tuple[dict[Role, Tensor], list[Tensor]]:
    pending, shards = frozen
    answers = pending.get()
    roles = [role for role in answers[0][0]]
    logprobs = {
        role: widen(unshard([a[0][role] for a in answers], shards), tokens) for role in roles
    }
    num_models = answers[0][1].shape[0]
    models = [unshard([a[1][i] for a in answers], shards) for i in range(num_models)]
    return logprobs, models


def demand_all(roles: frozenset[Role], scores: Mapping[Role, Tensor], problem: str) -> None:
    """
    Raises:
        ValueError: ``problem`` and the roles that are asked for and have no scores.
    """
    missing = roles - scores.keys()
    if missing:
        raise ValueError(f"{problem} {', '.join(sorted(missing))}")
