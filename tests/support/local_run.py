"""A run whose actors are plain objects of this process: what it builds, trains and leaves behind is
real, on models that are a table of bigrams."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from local_group import BigramEngine, BigramRank, FrozenReplica, bigram, bigram_logprobs
from local_group import engines as engines_of
from local_group import scorers as scorers_of
from local_group import trainers as trainers_of
from torch import Tensor

from rto.cluster.actors import TrainerSpec
from rto.cluster.build import Actors, Models, Progress, silent
from rto.cluster.calls import Engines, Scorers, Trainers
from rto.cluster.node_checks import NodeNeeds
from rto.cluster.placement import Placement
from rto.cluster.plan import Plan
from rto.cluster.session import NOTHING
from rto.protocols import Method
from rto.rollout.engine import Transport
from rto.sections.run_config import RunConfig
from rto.training.learner import Objective
from rto.training.writer import FileWriter, Fingerprint, HostFile
from rto.types import LossNorm, LossOutput, PolicyOutput, Role, StepStats, TokenBatch, TrainBatch

RATE = 2.0


@dataclass
class LearningRank(BigramRank):
    """The only rank of a policy, a critic or a reward model: descends its method's loss.

    A critic's value of a token, and what a response adds to a score, is the table's log-prob.
    """

    spec: TrainerSpec | None = None
    transfers: list[tuple[str, int]] = field(default_factory=list)
    extras: list[Objective | None] = field(default_factory=list)
    writer: FileWriter = field(default_factory=FileWriter)
    saved_behind: list[bool] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "policy" if self.spec is None else self.spec.kind

    def packs(self) -> bool:
        return False

    def score(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        logprobs = super().score(tokens, temperature=temperature)
        return logprobs.sum(-1) if self.kind == "score" else logprobs

    def update(
        self,
        method: Method,
        batch: TrainBatch,
        steps: list[list[list[int]]],
        norms: list[LossNorm],
        extra: Objective | None = None,
        single_step: bool = False,
    ) -> StepStats:
        before = bigram_logprobs(self.table, batch.tokens) if single_step else None
        self.extras.append(extra)
        sums: dict[str, float] = {}
        for step, norm in zip(steps, norms, strict=True):
            weights = self.table.clone().requires_grad_()
            for micro in step:
                result = self._loss(method, weights.log_softmax(-1), batch.take(micro), norm)
                result.loss.backward()
                for name, value in result.metrics.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
            assert weights.grad is not None
            self.table = (weights.detach() - RATE * weights.grad).log_softmax(-1)
        metrics = {name: value / len(steps) for name, value in sums.items()}
        tokens = int(batch.tokens.lengths.sum())
        return StepStats(metrics, len(steps), tokens, policy_logprobs=before)

    def _loss(self, method: Any, table: Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        scores = bigram_logprobs(table, batch.tokens)
        if self.kind == "score":
            return method.score_loss(scores.sum(-1), batch, norm)
        if self.kind == "critic":
            return method.value_loss(scores, batch, norm)
        return method.loss(PolicyOutput(logprobs=scores), batch, norm)

    def init_weight_transfer(self, engines: Any, transport: Any, workers: int) -> None:
        self.transfers.append((transport, workers))

    def save(self, folder: str, tag: str, *, behind: bool = False) -> None:
        self.saved_behind.append(behind)
        Path(folder).mkdir(parents=True)
        content = io.BytesIO()
        torch.save(self.table, content)
        file = HostFile(Path(folder) / tag, content)
        if behind:
            self.writer.start([file])
        else:
            file.path.write_bytes(content.getvalue())

    def written(self) -> dict[str, Fingerprint] | None:
        return self.writer.written()

    def load(self, folder: str, tag: str) -> None:
        self.table = torch.load(Path(folder) / tag, weights_only=True)

    def export(self, folder: str) -> None:
        """The table, and a config that says of which rank it is."""
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
        about = {"model_type": "llama", "rank": self.kind}
        (Path(folder) / "config.json").write_text(json.dumps(about))
        torch.save(self.table, Path(folder) / "table")


@dataclass
class LocalActors(Actors):
    """The actors of a run as objects of this process; ``ended`` names the groups that are gone."""

    policy: Tensor = field(default_factory=bigram)
    critic: Tensor = field(default_factory=lambda: bigram(7))
    frozen: Mapping[Role, Tensor] = field(default_factory=dict)
    ranks: dict[str, LearningRank] = field(default_factory=dict)
    engine_of: BigramEngine = field(default_factory=lambda: BigramEngine(bigram(9)))
    replica: FrozenReplica | None = None
    models: Models | None = None
    transport: Transport | None = None
    order: list[str] = field(default_factory=list)
    """The groups as they were started, and "ready" for each wait."""
    ended: list[str] = field(default_factory=list)

    def start_trainers(self, name: str, spec: TrainerSpec) -> Trainers:
        self.order.append(name)
        table = self.critic if name == "critic" else self.policy
        self.ranks[name] = LearningRank(table, spec=spec)
        return trainers_of(name, self.ranks[name])

    def start_scorers(self, models: Models) -> Scorers:
        self.order.append("scorer")
        self.models = models
        self.replica = FrozenReplica(dict(self.frozen), (1.0,) * len(models.rewards))
        return scorers_of(self.replica)

    def start_engines(self, model_path: str, transport: Transport) -> Engines:
        self.order.append("engine")
        self.transport = transport
        return engines_of(self.engine_of)

    def wait(self, progress: Progress = silent) -> None:
        self.order.append("ready")

    def stop(self, name: str) -> None:
        self.ended.append(name)


def cpu_plan(config: RunConfig) -> Plan:
    return Plan({}, {}, "cpu", colocated=False)


def local_actors(config: RunConfig, plan: Plan | None = None, **parts: Any) -> LocalActors:
    return LocalActors(config, Placement(plan or cpu_plan(config), {}), **parts)


@dataclass
class LocalSession:
    """Stands in for ``rto.cluster.session.session``; ``opened`` holds the actors of each run, and
    ``needs`` what they need of their nodes."""

    parts: Mapping[str, Any] = field(default_factory=dict)
    opened: list[LocalActors] = field(default_factory=list)
    needs: list[NodeNeeds] = field(default_factory=list)

    @contextmanager
    def __call__(
        self, config: RunConfig, plan: Plan, *, logs: Path, needs: NodeNeeds = NOTHING
    ) -> Iterator[LocalActors]:
        self.opened.append(local_actors(config, plan, **self.parts))
        self.needs.append(needs)
        yield self.opened[-1]
