"""Updates on the DeepSpeed ranks: plan on the driver, shards by rank, policy beside critic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from rto.batching.optimizer_steps import OptimizerStep, loss_norms, plan_update, rank_share
from rto.batching.shards import unshard
from rto.cluster.calls import Trainers, UpdateShare
from rto.cluster.groups import Pending
from rto.interrupt import ending
from rto.protocols import Method
from rto.training.learner import Objective
from rto.training.pretrain_mix import PretrainMix
from rto.types import SkippedStep, StepStats, TrainBatch


@dataclass(frozen=True)
class UpdatePlan:
    """How a batch becomes optimizer steps."""

    batch_size: int | None
    """Rows per optimizer step; None takes the whole batch in one."""
    max_tokens: int
    max_sequences: int | None
    epochs: int
    seed: int
    single_step: bool = False
    """An update is a single optimizer step, and its forward's log-probs are asked for."""


@dataclass
class ClusterLearner:
    """Implements ``Learner``. ``updates`` counts calls: their order of rows derives from it."""

    policy: Trainers
    critic: Trainers | None
    plan: UpdatePlan
    freezing_steps: int = -1
    ptx: PretrainMix | None = None
    updates: int = 0
    _packs: dict[str, bool] = field(default_factory=dict, init=False)

    @property
    def groups(self) -> dict[str, Trainers]:
        """The trained groups by name, policy first."""
        policy = {"policy": self.policy}
        return policy if self.critic is None else {**policy, "critic": self.critic}

    @property
    def single_step(self) -> bool:
        """Not while a frozen policy waits for its critic: its updates have no forward."""
        return self.plan.single_step and (self.critic is None or self.freezing_steps <= 0)

    def go_on(self, updates: int) -> None:
        """As the learner of a run that has made so many updates."""
        self.updates = updates

    def update(self, method: Method, batch: TrainBatch) -> StepStats:
        ending.changing()
        frozen = self.critic is not None and self.updates < self.freezing_steps
        running = [] if frozen else [self._start(self.policy, method, batch)]
        if self.critic is not None:
            running.append(self._start(self.critic, method, batch))
        self.updates += 1
        parts: list[list[StepStats]] = [pending.get() for pending, _ in running]
        stats = [ranks[0] for ranks in parts]
        trained = 0 if frozen else len(set(itertools.chain.from_iterable(running[0][1])))
        metrics = {name: value for each in stats for name, value in each.metrics.items()}
        return StepStats(
            metrics={**metrics, "response/trained": trained},
            optimizer_steps=stats[0].optimizer_steps,
            tokens=stats[0].tokens,
            policy_logprobs=_logprobs(parts[0], running[0][1]) if self.single_step else None,
            skipped=tuple(_skipped(parts, [shares for _, shares in running])),
            diverged=any(each.diverged for each in stats),
        )

    def _start(
        self, group: Trainers, method: Method, batch: TrainBatch
    ) -> tuple[Pending[StepStats], list[list[int]]]:
        """The running update and the rows of each shard."""
        tokens = batch.tokens
        is_policy, packs = group is self.policy, self._reads_packed(group)
        shards = group.num_shards
        steps: list[OptimizerStep] = []
        for epoch in range(self.plan.epochs):
            steps += plan_update(
                tokens.lengths.tolist(),
                tokens.group.tolist(),
                num_ranks=shards,
                batch_size=self.plan.batch_size or len(tokens),
                max_tokens=self.plan.max_tokens * group.shared_by,
                max_sequences=self.plan.max_sequences,
                seed=self.plan.seed + self.updates,
                epoch=epoch,
                whole_groups=method.whole_groups,
                packs=packs,
            )
        norms = loss_norms(tokens, steps)
        shares = [rank_share(steps, shard) for shard in range(shards)]
        extras = self._extras(len(steps)) if is_policy else [None] * shards
        parts = [
            UpdateShare(batch.take(rows), local, extra)
            for extra, (rows, local) in zip(extras, shares, strict=True)
        ]
        return group.update(method, parts, norms, single_step=is_policy and self.single_step), [
            rows for rows, _ in shares
        ]

    def _reads_packed(self, group: Trainers) -> bool:
        """Whether the group's model reads rows without padding: only the loaded model knows."""
        if group.name not in self._packs:
            self._packs[group.name] = group.packs()
        return self._packs[group.name]

    def _extras(self, num_steps: int) -> Sequence[Objective | None]:
        """The ptx objective of each shard of the policy's rows, where there is one."""
        shards = self.policy.num_shards
        if self.ptx is None or self.plan.batch_size is None:
            return [None] * shards
        return self.ptx.objectives(
            self.updates,
            num_steps=num_steps,
            batch_size=self.plan.batch_size,
            num_ranks=shards,
            max_tokens=self.plan.max_tokens * self.policy.shared_by,
            packs=self._reads_packed(self.policy),
        )


def _logprobs(ranks: Sequence[StepStats], rows: list[list[int]]) -> Tensor:
    """Of all rows [B, T], in the batch's order."""
    parts = [stats.policy_logprobs for stats in ranks]
    return unshard([part for part in parts if part is not None], rows)


def _skipped(
    groups: Sequence[Sequence[StepStats]], shares: Sequence[list[list[int]]]
) -> Iterator[SkippedStep]:
    """The optimizer steps that were left out, with the rows of the whole batch; of a group that
    diverged its last one stands last."""
    order = sorted(range(len(groups)), key=lambda group: groups[group][0].diverged)
    for group in order:
        shards = shares[group]
        for same in zip(*(stats.skipped for stats in groups[group]), strict=True):
            rows = {
                shard[row] for shard, each in zip(shards, same, strict=True) for row in each.rows
            }
            yield replace(same[0], rows=tuple(sorted(rows)))
