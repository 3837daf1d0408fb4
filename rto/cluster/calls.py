"""What the driver asks of the actors of a run: one typed method per remote call.

A call that other work may go on beside returns a ``Pending``; the others return when all actors
have answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import ray
from ray import ObjectRef
from torch import Tensor

from rto.cluster.actors import Device, EngineActor, ScorerActor, TrainerActor, TrainerSpec
from rto.cluster.groups import ActorGroup, Pending, RemoteCall, Result, arriving, remote
from rto.protocols import Method
from rto.rollout.engine import Transport
from rto.rollout.requests import Pairs, Sample, SampleRequest, Sampling
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Beside
from rto.training.learner import Objective
from rto.training.writer import Fingerprint
from rto.types import LossNorm, Role, StepStats, TokenBatch, TrainBatch
from rto.weights.digest import TensorDigests, WeightReceipt

Weights = Mapping[str, Tensor]
"""Whole tensors by name."""
Scored = tuple[dict[Role, Tensor], Tensor]
"""Log-probs by role, and the raw rewards [num_models, B]."""


@dataclass(frozen=True)
class UpdateShare:
    """A rank's part of an update: its rows, their micro-batches by step, and an objective beside
    the method's."""

    batch: TrainBatch
    steps: list[list[list[int]]]
    extra: Objective | None


@dataclass(eq=False)
class Trainers:
    """The ranks of one model in training. Every call is on all of them, in rank order.

    ``revision`` counts the calls that may have changed the weights. ``shared_by`` neighbours read
    the same rows: what is sent by shard goes to each of them.
    """

    group: ActorGroup
    shared_by: int = 1
    revision: int = field(default=0, init=False)

    @property
    def num_shards(self) -> int:
        """Parts that the rows of a call are cut into."""
        return len(self.group) // self.shared_by

    @property
    def name(self) -> str:
        return self.group.name

    def devices(self) -> Pending[list[str]]:
        """The GPU ids of each rank."""
        return self.group.all(remote(TrainerActor.devices))

    def start(
        self, spec: TrainerSpec, config: RunConfig, device: Device, share: int
    ) -> Pending[None]:
        """``share`` trainers, of the policy and of the critic, compute at the same time."""
        self.revision += 1
        rendezvous = arriving(remote(TrainerActor.address).send(self.group.actors[0]))
        ranks = len(self.group)
        return self.group.each(
            [
                remote(TrainerActor.start, spec, config, device, rank, ranks, rendezvous, share)
                for rank in range(ranks)
            ]
        )

    def packs(self) -> bool:
        """Whether the model reads rows without padding: on all ranks."""
        return all(self.group.all(remote(TrainerActor.packs)).get())

    def update(
        self,
        method: Method,
        shares: Sequence[UpdateShare],
        norms: list[LossNorm],
        *,
        single_step: bool,
    ) -> Pending[StepStats]:
        """An update of a share per shard; of a single step, it answers with the log-probs of the
        rows, too."""
        self.revision += 1
        return self._by_shard(
            [
                remote(
                    TrainerActor.update,
                    method,
                    share.batch,
                    share.steps,
                    norms,
                    share.extra,
                    single_step,
                )
                for share in shares
            ]
        )

    def score(self, shards: Sequence[TokenBatch]) -> Pending[Tensor]:
        """Log-probs or values [B, T], or scores [B], of each shard."""
        return self._by_shard([remote(TrainerActor.score, shard) for shard in shards])

    def _by_shard(self, calls: Sequence[RemoteCall[Result]]) -> Pending[Result]:
        """A call per shard, and an answer per shard."""
        everyones = [call for call in calls for _ in range(self.shared_by)]
        return replace(self.group.each(everyones), alike=self.shared_by)

    def score_alike(self, tokens: TokenBatch, *, temperature: float) -> list[Tensor]:
        """The same rows on every rank."""
        call = remote(TrainerActor.score, tokens, temperature=temperature)
        return self.group.all(call).get()

    def export_weights(self) -> Pending[Weights]:
        """All weights from rank 0, and nothing from the others."""
        return self.group.all(remote(TrainerActor.export_weights))

    def init_weight_transfer(
        self, engines: Engines, transport: Literal["nccl", "ipc"], workers: int
    ) -> None:
        """Join vLLM's weight transfer; ``workers`` counts the engines' processes."""
        handles = list(engines.group.actors)
        self.group.all(remote(TrainerActor.init_weight_transfer, handles, transport, workers)).get()

    def send_weights(self) -> None:
        """Through vLLM's weight transfer."""
        self.group.all(remote(TrainerActor.send_weights)).get()

    def sent_digests(self) -> TensorDigests:
        """Of the weights that last left rank 0."""
        return self.group.all(remote(TrainerActor.sent_digests)).get()[0]

    def save(self, folder: str, tag: str, *, behind: bool = False) -> None:
        """``behind``: it is written while the ranks go on, until ``written`` tells."""
        self.group.all(remote(TrainerActor.save, folder, tag, behind=behind)).get()

    def written(self) -> list[dict[str, Fingerprint] | None]:
        """Each rank's files of a ``save`` behind it, by path; None while they are not all there."""
        return self.group.all(remote(TrainerActor.written)).get()

    def load(self, folder: str, tag: str) -> None:
        self.revision += 1
        self.group.all(remote(TrainerActor.load, folder, tag)).get()

    def export(self, folder: str) -> None:
        """Write a directory that ``from_pretrained`` loads."""
        self.group.all(remote(TrainerActor.export, folder)).get()


@dataclass(frozen=True)
class Scorers:
    """The replicas of all frozen models."""

    group: ActorGroup

    def __len__(self) -> int:
        return len(self.group)

    def start(
        self, paths: Mapping[Role, str], rewards: Sequence[str], config: RunConfig, device: Device
    ) -> Pending[None]:
        call = remote(ScorerActor.start, paths, rewards, config, device, len(self))
        return self.group.all(call)

    def score(self, shards: Sequence[TokenBatch], roles: frozenset[Role]) -> Pending[Scored]:
        """The roles' scores of a shard per replica."""
        return self.group.each([remote(ScorerActor.score, shard, roles) for shard in shards])


@dataclass(frozen=True)
class Engines:
    """The sampling engines."""

    group: ActorGroup

    def __len__(self) -> int:
        return len(self.group)

    def start(
        self,
        model_path: str,
        config: RunConfig,
        transport: Transport,
        device: Device,
        beside: Beside,
        gpus: Sequence[Sequence[ObjectRef[list[str]]]],
    ) -> Pending[None]:
        """``gpus`` of each engine: the GPU ids of the ranks that it shares them with; ``beside``
        names what else is on them."""
        return self.group.each(
            [
                remote(
                    EngineActor.start,
                    model_path,
                    config,
                    transport,
                    device,
                    index,
                    beside,
                    *map(arriving, own),
                )
                for index, own in enumerate(gpus)
            ]
        )

    def generate(
        self,
        shards: Sequence[Sequence[Sequence[SampleRequest]]],
        sampling: Sampling,
        policy_version: int,
    ) -> Iterator[list[list[Sample]]]:
        """A shard per engine, each in as many parts: the samples of every engine's first part, once
        they are there, then those of the second, and so on."""
        calls = [remote(EngineActor.begin, shard, sampling, policy_version) for shard in shards]
        begun = self.group.each(calls)
        # All at once: no engine waits between two parts for this process to ask.
        parts = [self.group.all(remote(EngineActor.next_part)) for _ in shards[0]]
        begun.get()
        for part in parts:
            yield part.get()

    def response_logprobs(self, pairs: Pairs) -> Pending[list[list[float]]]:
        """Of the same pairs on every engine."""
        return self.group.all(remote(EngineActor.response_logprobs, pairs))

    def load_weights(self, weights: ObjectRef[Weights]) -> None:
        """Out of Ray's object store: the weights never pass through this process."""
        self.group.all(remote(EngineActor.load_weights, arriving(weights))).get()

    def load_given_weights(self, weights: Weights) -> None:
        """Weights that this process holds; they are stored once for all engines."""
        self.load_weights(ray.put(weights))

    def receipts(self) -> list[WeightReceipt]:
        """What each engine's last update brought."""
        return self.group.all(remote(EngineActor.receipt)).get()

    def accept(self, version: int) -> None:
        """The caller vouches that the weights held now are policy ``version``."""
        self.group.all(remote(EngineActor.accept, version)).get()

    def keep(self, version: int) -> bool:
        """Whether all of them hold the weights accepted as ``version`` still."""
        return all(self.group.all(remote(EngineActor.keep, version)).get())

    def sleep(self) -> None:
        """Give the devices' memory back."""
        self.group.all(remote(EngineActor.sleep)).get()

    def wake(self, tag: Literal["weights", "kv_cache"]) -> None:
        self.group.all(remote(EngineActor.wake, tag)).get()
