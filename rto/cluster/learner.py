"""Updates on the DeepSpeed ranks: plan on the driver, shards by rank, policy beside critic."""

from __future__ import annotations

from dataclasses import dataclass

from rto.cluster.groups import ActorGroup, Pending
from rto.cluster.ptx import PretrainMix
from rto.protocols import Targets
from rto.training.learner import Objective
from rto.training.plan import OptimizerStep, loss_norms, plan_update, rank_share
from rto.types import StepStats, TrainBatch


@dataclass(frozen=True)
class UpdatePlan:
    """How a batch becomes optimizer steps."""

    batch_size: int | None
    """Rows per optimizer step; None takes the whole batch in one."""
    max_tokens: int
    max_sequences: int | None
    epochs: int
    seed: int


@dataclass
class ClusterLearner:
    """Implements ``Learner``. ``updates`` counts calls and goes into the checkpoint."""

    policy: ActorGroup
    critic: ActorGroup | None
    plan: UpdatePlan
    freezing_steps: int = -1
    ptx: PretrainMix | None = None
    updates: int = 0

    @property
    def groups(self) -> dict[str, ActorGroup]:
        """The trained groups by name, policy first."""
        policy = {"policy": self.policy}
        return policy if self.critic is None else {**policy, "critic": self.critic}

    def update(self, method: Targets, batch: TrainBatch) -> StepStats:
        frozen = self.critic is not None and self.updates < self.freezing_steps
        running = [] if frozen else [self._start(self.policy, method, batch)]
        if self.critic is not None:
            running.append(self._start(self.critic, method, batch))
        self.updates += 1
        stats: list[StepStats] = [pending.get()[0] for pending in running]
        return StepStats(
            metrics={name: value for each in stats for name, value in each.metrics.items()},
            optimizer_steps=stats[0].optimizer_steps,
            tokens=stats[0].tokens,
        )

    def _start(self, group: ActorGroup, method: Targets, batch: TrainBatch) -> Pending:
        tokens = batch.tokens
        steps: list[OptimizerStep] = []
        for epoch in range(self.plan.epochs):
            steps += plan_update(
                tokens.lengths.tolist(),
                tokens.group.tolist(),
                num_ranks=len(group),
                batch_size=self.plan.batch_size or len(tokens),
                max_tokens=self.plan.max_tokens,
                max_sequences=self.plan.max_sequences,
                seed=self.plan.seed + self.updates,
                epoch=epoch,
                whole_groups=method.whole_groups,
            )
        norms = loss_norms(tokens, steps)
        shares = [rank_share(steps, rank) for rank in range(len(group))]
        extras = self._extras(len(steps), len(group)) if group is self.policy else []
        arguments = [
            (method, batch.take(rows), local, norms, *extras[rank : rank + 1])
            for rank, (rows, local) in enumerate(shares)
        ]
        return group.start_each("update", arguments)

    def _extras(self, num_steps: int, num_ranks: int) -> list[Objective]:
        """The ptx objective of each rank, where there is one."""
        if self.ptx is None or self.plan.batch_size is None:
            return []
        return self.ptx.objectives(
            self.updates,
            num_steps=num_steps,
            batch_size=self.plan.batch_size,
            num_ranks=num_ranks,
            max_tokens=self.plan.max_tokens,
        )
