"""The groups of a run whose actors are plain objects of this process, and a model small enough to
be one.

A call is made at once and in rank order; what the caller does with the answers is real. The
objects are of the types that the actors are of, so a call that fits no actor fits no object here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from rto.cluster.actors import ScorerActor, TrainerActor
from rto.cluster.calls import Engines, Scorers, Trainers
from rto.cluster.groups import ActorGroup, Pending, RemoteCall
from rto.rollout.engine import Engine
from rto.rollout.requests import Pairs, Sample, SampleRequest, Sampling
from rto.types import Role, TokenBatch, logprob_array, token_array
from rto.weights.digest import DigestRecorder, TensorDigests, WeightReceipt

VOCAB = 6
EOS = 5


Result = TypeVar("Result")


@dataclass(frozen=True)
class Answered(Pending[Result]):
    """``refs`` are the results."""

    def get(self, timeout: float | None = None) -> list[Result]:
        return cast(list[Result], list(self.refs)[:: self.alike])


@dataclass(frozen=True)
class LocalGroup(ActorGroup):
    def each(self, calls: Sequence[RemoteCall[Result]]) -> Pending[Result]:
        pairs = zip(self.actors, calls, strict=True)
        results: list[Any] = [
            getattr(actor, call.method)(*call.args, **call.kwargs) for actor, call in pairs
        ]
        return Answered(self, calls[0].method, results)


def _group(name: str, actors: Sequence[object]) -> LocalGroup:
    return LocalGroup(name, cast(Any, actors), timeout=1.0)


def trainers(name: str, *ranks: TrainerActor, shared_by: int = 1) -> Trainers:
    return Trainers(_group(name, ranks), shared_by)


def engines(*several: Engine) -> Engines:
    return Engines(_group("engine", several))


def scorers(*replicas: ScorerActor) -> Scorers:
    return Scorers(_group("scorer", replicas))


def bigram(seed: int = 0) -> Tensor:
    """Log-probs [V, V] of a token after the one before it."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(VOCAB, VOCAB, generator=rng).log_softmax(-1)


def bigram_logprobs(table: Tensor, tokens: TokenBatch) -> Tensor:
    """[B, T], 0 in the padding."""
    before = torch.cat([tokens.prompt_ids[:, -1:], tokens.response_ids[:, :-1]], dim=1)
    return table[before, tokens.response_ids].masked_fill(~tokens.response_mask, 0)


@dataclass
class BigramRank(TrainerActor):
    """One rank of a policy that holds a table. Notes what it was asked to score."""

    table: Tensor
    seen: list[TokenBatch] = field(default_factory=list)
    temperatures: list[float | None] = field(default_factory=list)

    def score(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        self.seen.append(tokens)
        self.temperatures.append(temperature)
        return bigram_logprobs(self.table, tokens)

    def export_weights(self) -> Mapping[str, Tensor]:
        return {"table": self.table}

    def sent_digests(self) -> TensorDigests:
        return _digests({"table": self.table})

    def send_weights(self) -> None:
        raise AssertionError("the other transport")


@dataclass
class NotingRank(TrainerActor):
    """A rank that notes what it was asked to leave behind or to take up."""

    calls: list[tuple[str, ...]] = field(default_factory=list)

    def save(self, folder: str, tag: str, *, behind: bool = False) -> None:
        self.calls.append(("save", folder, tag))

    def load(self, folder: str, tag: str) -> None:
        self.calls.append(("load", folder, tag))

    def export(self, folder: str) -> None:
        self.calls.append(("export", folder))
        Path(folder).mkdir(parents=True, exist_ok=True)


@dataclass
class BigramEngine:
    """Samples from a table; notes its calls in ``notes``."""

    table: Tensor
    notes: list[tuple[Any, ...]] = field(default_factory=list)
    received: Mapping[str, Tensor] = field(default_factory=dict)
    accepted: int | None = None
    _parts: Iterator[list[Sample]] = field(default_factory=lambda: iter(()))

    def begin(
        self, parts: Sequence[Sequence[SampleRequest]], sampling: Sampling, policy_version: int
    ) -> None:
        """As the actor around an engine does."""
        self._parts = self.generate_parts(parts, sampling, policy_version)

    def next_part(self) -> list[Sample]:
        return next(self._parts)

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, policy_version: int
    ) -> list[Sample]:
        (samples,) = self.generate_parts([requests], sampling, policy_version)
        return samples

    def generate_parts(
        self, parts: Sequence[Sequence[SampleRequest]], sampling: Sampling, policy_version: int
    ) -> Iterator[list[Sample]]:
        self.notes.append(("generate", sum(map(len, parts)), policy_version))
        return ([self._sample(request, sampling) for request in part] for part in parts)

    def _sample(self, request: SampleRequest, sampling: Sampling) -> Sample:
        rng = torch.Generator().manual_seed(request.seed)
        ids: list[int] = []
        logprobs: list[float] = []
        last = request.prompt_token_ids[-1]
        while len(ids) < sampling.max_new_tokens and last not in sampling.stop_token_ids:
            row = self.table[last]
            last = int(torch.multinomial(row.exp(), 1, generator=rng))
            ids.append(last)
            logprobs.append(float(row[last]))
        text = " ".join(map(str, ids))
        return Sample(
            token_array(ids), logprob_array(logprobs), text, last in sampling.stop_token_ids
        )

    def response_logprobs(self, pairs: Pairs) -> list[list[float]]:
        self.notes.append(("response_logprobs",))
        return [
            [float(self.table[a, b]) for a, b in zip([prompt[-1], *ids], ids, strict=False)]
            for prompt, ids in pairs
        ]

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self.notes.append(("load_weights",))
        self.received = weights
        self.table = weights["table"]

    def receipt(self) -> WeightReceipt:
        self.notes.append(("receipt",))
        return WeightReceipt(_digests(self.received), ())

    def accept(self, version: int) -> None:
        self.notes.append(("accept", version))
        self.accepted = version

    def keep(self, version: int) -> bool:
        self.notes.append(("keep", version))
        return self.accepted == version

    def sleep(self) -> None:
        self.notes.append(("sleep",))
        self.accepted = None

    def wake(self, tag: Literal["weights", "kv_cache"]) -> None:
        self.notes.append(("wake", tag))


@dataclass
class FrozenReplica(ScorerActor):
    """Frozen bigram policies by role, and reward models: the sum of the response's token ids times
    a factor each."""

    tables: Mapping[Role, Tensor] = field(default_factory=dict)
    factors: Sequence[float] = (1.0,)
    seen: list[TokenBatch] = field(default_factory=list)

    def score(
        self, tokens: TokenBatch, roles: frozenset[Role]
    ) -> tuple[dict[Role, Tensor], Tensor]:
        self.seen.append(tokens)
        logprobs = {
            role: bigram_logprobs(self.tables[role], tokens) for role in roles - {Role.REWARD}
        }
        if Role.REWARD not in roles:
            return logprobs, torch.empty(0, len(tokens))
        raw = self.reward(tokens)
        return logprobs, torch.stack([factor * raw for factor in self.factors])

    def reward(self, tokens: TokenBatch) -> Tensor:
        return tokens.response_ids.masked_fill(~tokens.response_mask, 0).sum(-1).float()


def _digests(weights: Mapping[str, Tensor]) -> TensorDigests:
    recorder = DigestRecorder()
    for _ in recorder.tee(weights.items()):
        pass
    return recorder.digests
