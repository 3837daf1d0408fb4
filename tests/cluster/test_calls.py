"""What the driver asks of the actors: each call arrives at its actor, with the arguments it had."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from local_group import BigramEngine, BigramRank, bigram, engines, trainers
from token_rows import token_batch
from torch import Tensor

from rto.cluster.actors import EngineActor, TrainerSpec
from rto.cluster.calls import Engines, Scorers, Trainers, UpdateShare
from rto.cluster.groups import ActorGroup, Pending
from rto.errors import ProofError
from rto.methods.sft import SFT
from rto.rollout.requests import SampleRequest, Sampling
from rto.runs import evaluate
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM
from rto.sections.training import RolloutSection
from rto.types import LossNorm, Role, TrainBatch

SPEC = TrainerSpec("policy", "m", total_steps=3)
CONFIG = RunConfig()
ROWS = token_batch([[1], [2]], [[3], [4]], groups=[0, 1])


@dataclass
class Handle:
    """An actor as the driver sees it; a call of a method is noted and answered by its name."""

    rank: int
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__"):
            raise AttributeError(method)
        return Remote(self, method)


@dataclass(frozen=True)
class Remote:
    handle: Handle
    method: str

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        self.handle.calls.append((self.method, *args, *([kwargs] if kwargs else [])))
        return f"{self.method} of {self.handle.rank}"


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> list[Handle]:
    """Two actors, whose references stand for the answers."""
    monkeypatch.setattr(Pending, "get", lambda pending: list(pending.refs))
    return [Handle(0), Handle(1)]


def group(handles: list[Handle]) -> ActorGroup:
    actors: list[Any] = [*handles]
    return ActorGroup("g", actors, timeout=1.0)


def test_ranks_start_with_a_number_each_and_meet_at_the_first(handles: list[Handle]) -> None:
    pending = Trainers(group(handles)).start(SPEC, CONFIG, "cpu", 3)
    meeting = "address of 0"
    assert handles[0].calls == [
        ("address",),
        ("start", SPEC, CONFIG, "cpu", 0, 2, meeting, 3),
    ]
    assert handles[1].calls == [("start", SPEC, CONFIG, "cpu", 1, 2, meeting, 3)]
    assert (pending.method, list(pending.refs)) == ("start", ["start of 0", "start of 1"])


def test_engines_start_with_a_number_each_and_the_gpus_that_they_share(
    handles: list[Handle],
) -> None:
    shared: list[Any] = [["a", "b"], ["c"]]
    Engines(group(handles)).start("m", CONFIG, "ipc", "cuda", shared)
    assert handles[0].calls == [("start", "m", CONFIG, "ipc", "cuda", 0, "a", "b")]
    assert handles[1].calls == [("start", "m", CONFIG, "ipc", "cuda", 1, "c")]


def test_scorers_start_alike_and_score_a_shard_each(handles: list[Handle]) -> None:
    scorers = Scorers(group(handles))
    scorers.start({Role.DPO: "d"}, ["r"], CONFIG, "cpu")
    shards = [ROWS.take([0]), ROWS.take([1])]
    scorers.score(shards, frozenset({Role.DPO}))
    for handle, shard in zip(handles, shards, strict=True):
        assert handle.calls[0] == ("start", {Role.DPO: "d"}, ["r"], CONFIG, "cpu", 2)
        assert handle.calls[1] == ("score", shard, frozenset({Role.DPO}))


def test_a_call_on_all_ranks_is_the_same_on_each(handles: list[Handle]) -> None:
    policy, others = Trainers(group(handles)), [Handle(0), Handle(1)]
    policy.save("f", "state")
    policy.load("f", "state")
    policy.export("e")
    policy.send_weights()
    policy.init_weight_transfer(Engines(group(others)), "nccl", 4)
    assert policy.sent_digests() == "sent_digests of 0"
    assert policy.score_alike(ROWS, temperature=1.0) == ["score of 0", "score of 1"]
    for handle in handles:
        assert handle.calls == [
            ("save", "f", "state"),
            ("load", "f", "state"),
            ("export", "e"),
            ("send_weights",),
            ("init_weight_transfer", others, "nccl", 4),
            ("sent_digests",),
            ("score", ROWS, {"temperature": 1.0}),
        ]


def test_a_shard_for_every_actor_or_none(handles: list[Handle]) -> None:
    with pytest.raises(ValueError, match="zip"):
        Trainers(group(handles)).score([ROWS])


def test_a_model_is_packed_where_all_its_ranks_are() -> None:
    class Packed(BigramRank):
        def packs(self) -> bool:
            return True

    class Padded(BigramRank):
        def packs(self) -> bool:
            return False

    assert trainers("policy", Packed(bigram()), Packed(bigram())).packs()
    assert not trainers("policy", Packed(bigram()), Padded(bigram())).packs()


@dataclass
class Receiving(BigramEngine):
    """Takes part in vLLM's weight transfer."""

    def init_weight_transfer_engine(self, request: Any) -> None:
        self.notes.append(("init", request))

    def start_weight_update(self) -> None:
        self.notes.append(("begin",))

    def update_weights(self, request: Any) -> None:
        self.notes.append(("update", request))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.notes.append(("finish", weight_version))


def started(
    monkeypatch: pytest.MonkeyPatch, engine: BigramEngine, *gpus: list[str]
) -> tuple[EngineActor, list[Any]]:
    """An actor of this process around an engine, and what that was built from."""
    asked: list[Any] = []

    def build(path: str, config: RunConfig, **settings: Any) -> BigramEngine:
        asked.append((path, settings))
        return engine

    monkeypatch.setattr("rto.cluster.actors.build_engine", build)
    monkeypatch.setattr("rto.cluster.actors.prepare_process", lambda device, share: None)
    config = RunConfig(
        data=Data(max_len=80), rollout=RolloutSection(max_tokens_per_gpu=99), vllm=VLLM()
    )
    actor = EngineActor()
    for _ in range(2):
        actor.start("m", config, "nccl", "cpu", 5, *gpus)
    return actor, asked


def test_an_actor_builds_its_engine_once_and_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Receiving(bigram())
    actor, asked = started(monkeypatch, engine)
    room = {"max_len": 80, "device": "cpu", "max_tokens": 99, "door": "nccl", "index": 5}
    assert asked == [("m", room)]
    actor.wake("weights")
    actor.load_weights({"table": bigram(1)})
    receipt = actor.receipt()
    actor.accept(4)
    (sample,) = actor.generate([SampleRequest((1,), 0)], Sampling(3), 4)
    actor.response_logprobs([([1], [2])])
    actor.sleep()
    actor.init_weight_transfer_engine("to")  # pyright: ignore[reportArgumentType]
    actor.start_weight_update()
    actor.update_weights("with")  # pyright: ignore[reportArgumentType]
    actor.finish_weight_update("v")
    assert engine.notes == [
        ("wake", "weights"), ("load_weights",), ("receipt",), ("accept", 4), ("generate", 1, 4),
        ("response_logprobs",), ("sleep",), ("init", "to"), ("begin",), ("update", "with"),
        ("finish", "v"),
    ]  # fmt: skip
    assert receipt.digests.keys() == {"table"}
    assert len(sample.token_ids) == 3


def test_an_engine_uses_the_gpus_of_the_ranks_that_it_shares_them_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    started(monkeypatch, BigramEngine(bigram()))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    started(monkeypatch, BigramEngine(bigram()), ["2"], ["3"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_transformers_take_no_part_in_vllms_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    actor, _ = started(monkeypatch, BigramEngine(bigram()))
    with pytest.raises(AssertionError):
        actor.start_weight_update()


class Mangling(BigramEngine):
    """Receives other bytes than were sent."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        super().load_weights({"table": weights["table"] + 1.0})


def test_stored_weights_are_handed_over_with_their_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rto.cluster.calls.ray.put", lambda weights: weights)
    engine, weights = BigramEngine(bigram()), {"table": bigram(1)}
    evaluate._hand_over(engines(engine), weights)
    assert engine.notes == [("load_weights",), ("receipt",), ("accept", evaluate.VERSION)]
    assert torch.equal(engine.table, bigram(1))
    broken = Mangling(bigram())
    with pytest.raises(ProofError, match="engine 1 received other weights"):
        evaluate._hand_over(engines(BigramEngine(bigram()), broken), weights)
    assert not any(name == "accept" for name, *_ in broken.notes)


def test_an_update_sends_a_share_to_every_rank(handles: list[Handle]) -> None:
    shares = [UpdateShare(TrainBatch(ROWS.take([row])), [[[0]]], None) for row in range(len(ROWS))]
    norms = [LossNorm(tokens=2, sequences=2, groups=2)]
    Trainers(group(handles)).update(SFT(), shares, norms, single_step=True)
    for handle, share in zip(handles, shares, strict=True):
        assert handle.calls == [
            ("update", SFT(), share.batch, [[[0]]], norms, None, True),
        ]
