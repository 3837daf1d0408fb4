"""The actors as objects of this process: what they build, once, and what they hand on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from local_group import BigramEngine, bigram
from token_rows import token_batch

from rto.cluster.actors import (
    EngineActor,
    ScorerActor,
    TrainerActor,
    engine_settings,
    prepare_process,
)
from rto.rollout.requests import SampleRequest, Sampling
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, DeepSpeed
from rto.sections.training import RolloutSection
from rto.types import Role


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
    monkeypatch.setattr("rto.cluster.actors.prepare_process", lambda share: None)
    config = RunConfig(
        data=Data(max_len=80), rollout=RolloutSection(max_tokens_per_gpu=99), vllm=VLLM()
    )
    actor = EngineActor()
    for _ in range(2):
        actor.start("m", config, "nccl", "cpu", 5, "ranks", *gpus)
    return actor, asked


def test_an_actor_builds_its_engine_once_and_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Receiving(bigram())
    actor, asked = started(monkeypatch, engine)
    room = {"max_len": 80, "device": "cpu", "max_tokens": 99, "transport": "nccl", "index": 5}
    room = {**room, "beside": "ranks"}
    assert asked == [("m", room)]
    actor.wake("weights")
    actor.load_weights({"table": bigram(1)})
    receipt = actor.receipt()
    actor.accept(4)
    actor.begin([[SampleRequest((1,), 0)], [], [SampleRequest((2,), 0)] * 2], Sampling(3), 4)
    (sample,), none, others = (actor.next_part() for _ in range(3))
    assert (len(none), len(others)) == (0, 2)
    actor.response_logprobs([([1], [2])])
    actor.sleep()
    actor.init_weight_transfer_engine("to")  # pyright: ignore[reportArgumentType]
    actor.start_weight_update()
    actor.update_weights("with")  # pyright: ignore[reportArgumentType]
    actor.finish_weight_update("v")
    assert engine.notes == [
        ("wake", "weights"), ("load_weights",), ("receipt",), ("accept", 4), ("generate", 3, 4),
        ("response_logprobs",), ("sleep",), ("init", "to"), ("begin",), ("update", "with"),
        ("finish", "v"),
    ]  # fmt: skip
    assert receipt.digests.keys() == {"table"}
    assert len(sample.token_ids) == 3


def test_a_failed_transfer_is_told_to_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Receiving):
        def update_weights(self, request: Any) -> None:
            raise MemoryError("no room for 'a'")

    actor, _ = started(monkeypatch, Full(bigram()))
    actor.start_weight_update()
    actor.tell_failure()
    for call in (lambda: actor.update_weights("with"), actor.tell_failure, actor.tell_failure):  # pyright: ignore
        with pytest.raises(MemoryError, match="no room for 'a'"):
            call()


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


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("cores", "share", "expected"), [(8, 2, 4), (8, 3, 2), (2, 5, 1)])
def test_processes_that_compute_at_the_same_time_share_the_cores(
    cores: int, share: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    prepare_process(share=share)
    assert torch.get_num_threads() == expected


@pytest.mark.usefixtures("threads")
def test_a_process_beside_a_gpu_has_its_cores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def build(path: str, config: RunConfig, **settings: Any) -> BigramEngine:
        found.append(torch.get_num_threads())
        return BigramEngine(bigram())

    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setattr("rto.cluster.actors.build_engine", build)
    config = RunConfig(vllm=VLLM(num_engines=4))
    for device in ("cpu", "cuda"):
        torch.set_num_threads(1)
        EngineActor().start("m", config, "ipc", device, 0, "ranks")
    assert found == [3, 3]


@pytest.mark.usefixtures("threads")
def test_a_replica_scores_the_roles_that_are_asked_for_and_rewards_where_they_are(
    tiny_model_dir: Path, tiny_reward_dir: Path
) -> None:
    actor, path = ScorerActor(), str(tiny_model_dir)
    config = RunConfig(ds=DeepSpeed(param_dtype="fp32"), data=Data(max_len=32))
    actor.start({Role.REFERENCE: path, Role.DPO: path}, [str(tiny_reward_dir)], config, "cpu", 1)
    rows = token_batch([[1, 6], [1]], [[7, 2], [8, 9, 2]])
    logprobs, rewards = actor.score(rows, frozenset({Role.REFERENCE, Role.REWARD}))
    assert logprobs.keys() == {Role.REFERENCE}
    assert rewards.shape == (1, 2)
    alone, nothing = actor.score(rows, frozenset({Role.DPO}))
    assert torch.equal(alone[Role.DPO], logprobs[Role.REFERENCE])
    assert nothing.shape == (0, 2)
    actor.rest()
    assert vars(actor) == {}


def test_a_rank_that_rests_closes_its_model_and_may_rest_again() -> None:
    class Closing:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    actor, rank = TrainerActor(), Closing()
    actor.rank = rank  # pyright: ignore[reportAttributeAccessIssue]
    actor.rest()
    actor.rest()
    assert (rank.closed, vars(actor)) == (1, {})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"rollout": RolloutSection(temperature=0.5)}, True),
        ({"data": Data(max_len=99)}, False),
        ({"ds": DeepSpeed(param_dtype="bf16")}, False),
        ({"vllm": VLLM(num_engines=2)}, False),
    ],
)
def test_an_engine_serves_runs_that_would_build_the_same(
    changes: dict[str, Any], same: bool
) -> None:
    common: dict[str, Any] = {"ds": DeepSpeed(param_dtype="fp32"), "data": Data(max_len=80)}
    config = RunConfig(**common)
    first = engine_settings("m", config, "ipc", "ranks")
    again = engine_settings("m", RunConfig(**{**common, **changes}), "ipc", "ranks")
    assert (again == first) is same
    assert engine_settings("other", config, "ipc", "ranks") != first
    assert engine_settings("m", config, "nccl", "ranks") != first
    assert engine_settings("m", config, "ipc", "nothing") != first
