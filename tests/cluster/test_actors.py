"""The actors as objects of this process: what they build, once, and what they hand on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest
from local_group import BigramEngine, bigram

from rto.cluster.actors import EngineActor
from rto.rollout.requests import SampleRequest, Sampling
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM
from rto.sections.training import RolloutSection


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
