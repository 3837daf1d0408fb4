"""Who has what in which phase: the figures of a known run, and what each setting changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from llama_shapes import GIB, LLAMA_8B, zero
from planned_runs import build, rto_8b

from rto.planning.memory import (
    ASLEEP,
    CONTEXT,
    NCCL,
    Need,
    Setup,
    disk,
    gpu_needs,
    host_needs,
    places,
)
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Ckpt
from rto.sections.training import Critic, Frozen, RolloutSection, Train

CARD = 79.1 * GIB


def needs(config: RunConfig) -> dict[str, Need]:
    return {need.phase: need for need in gpu_needs(build(config), CARD)}


def gib(config: RunConfig) -> dict[str, float]:
    return {phase: need.total / GIB for phase, need in needs(config).items()}


def test_the_run_of_the_paper_with_offloading_and_half_a_card_for_the_engine() -> None:
    """Against an estimate by hand, made from the sources of vLLM and DeepSpeed before this code
    was: 64 GiB sampling and pushing, 45 scoring, 46 updating; each within a tenth."""
    found = gib(
        rto_8b(
            ds=zero(2, offload=True),
            vllm=VLLM(num_engines=8, gpu_memory_utilization=0.5, engine="vllm"),
        )
    )
    assert max(found["sampling"], found["push"]) == pytest.approx(64, rel=0.1)
    assert found["scoring"] == pytest.approx(45, rel=0.1)
    assert found["update"] == pytest.approx(46, rel=0.1)


def test_an_optimizer_on_the_gpu_takes_an_eighth_of_12_bytes_instead_of_a_buffer() -> None:
    """The same estimate: 13 GiB more for policy and critic, at a share of 0.4 still 67 GiB."""
    config = rto_8b()
    offloaded = gib(replace(config, ds=zero(2, offload=True)))
    found = gib(config)
    n, critic = LLAMA_8B.params, 1_235_816_448
    buffers = 2 * (525_336_576 + 262_668_288)
    more = (12 / 8 * (n + critic) - buffers) / GIB
    assert found["sampling"] - offloaded["sampling"] == pytest.approx(more)
    assert found["push"] == pytest.approx(67, rel=0.02)


def test_each_part_of_sampling() -> None:
    found = needs(rto_8b())["sampling"].groups
    assert found["policy"] == {
        "process": CONTEXT + NCCL,
        "parameters": 2 * LLAMA_8B.params,
        "fp32 weights": 4 * LLAMA_8B.params / 8,
        "optimizer": LLAMA_8B.params,
    }
    assert found["scorer"] == {"process": CONTEXT}
    assert sum(found["engine"].values()) == pytest.approx(0.4 * CARD + CONTEXT)


def test_engines_sleep_while_others_compute() -> None:
    phases = needs(rto_8b())
    asleep = {"process": CONTEXT, "asleep": ASLEEP}
    sleeping = {phase for phase, need in phases.items() if need.groups["engine"] == asleep}
    assert sleeping == {"start", "scoring", "update"}
    awake = rto_8b(
        vllm=VLLM(num_engines=8, gpu_memory_utilization=0.4, enable_sleep=False, engine="vllm")
    )
    assert all("KV cache" in need.groups["engine"] for need in needs(awake).values())


def test_the_first_start_has_no_optimizer_states_yet() -> None:
    phases = needs(rto_8b())
    assert "optimizer" not in phases["start"].groups["policy"]
    assert "optimizer" in phases["sampling"].groups["policy"]


def test_frozen_models_come_one_at_a_time_or_stay() -> None:
    held = 2 * (2 * LLAMA_8B.params + 1_235_816_448)
    offloaded = needs(rto_8b())
    assert offloaded["scoring"].groups["scorer"]["parameters"] == 2 * LLAMA_8B.params
    assert offloaded["update"].groups["scorer"] == {"process": CONTEXT}
    stay = needs(rto_8b(ref=Frozen(num_gpus_per_node=8)))
    for phase in ("start", "sampling", "scoring", "update", "push"):
        assert stay[phase].groups["scorer"]["parameters"] == held
    # torch keeps what a forward took, for the next one.
    assert stay["update"].groups["scorer"] == stay["scoring"].groups["scorer"]


def test_over_ipc_a_push_has_its_buffer_twice() -> None:
    assert needs(rto_8b())["push"].groups["policy"]["weight transfer"] == 2 * 2**30
    apart = rto_8b(train=Train(batch_size=128, device="cuda", colocate_all=False))
    push = [need for need in gpu_needs(build(apart), CARD) if need.phase == "push"]
    assert {need.place for need in push} == {
        "GPU of policy", "GPU of critic", "GPU of scorer", "GPU of engine"
    }  # fmt: skip
    policy = next(need for need in push if need.place == "GPU of policy")
    # NCCL packs what it sends too.
    assert policy.groups["policy"]["weight transfer"] == 2 * 2**30


def test_stage_3_has_whole_weights_while_it_computes() -> None:
    phases = needs(rto_8b(ds=zero(3)))
    having = {phase for phase, need in phases.items() if "whole weights" in need.groups["policy"]}
    assert having == {"scoring", "update", "push", "checkpoint"}


def test_gpus_with_fewer_groups_are_places_of_their_own() -> None:
    config = rto_8b(critic=Critic(num_gpus_per_node=2), ref=Frozen(num_gpus_per_node=4))
    found = [(place.groups, place.count) for place in places(build(config))]
    assert found == [
        (("policy", "critic", "scorer", "engine"), 2),
        (("policy", "scorer", "engine"), 2),
        (("policy", "engine"), 4),
    ]


def test_a_forward_has_no_more_tokens_than_the_rows_of_its_rank() -> None:
    setup = build(rto_8b())
    assert setup.update_tokens(8) == 16384
    assert setup.update_tokens(64) == 2 * 2048
    assert setup.score_tokens(1024) == 2048
    limited = rto_8b(train=Train(batch_size=128, device="cuda", micro_batch_size=1))
    assert build(limited).update_tokens(8) == 2048
    tight = rto_8b(train=Train(batch_size=128, device="cuda", max_tokens_per_gpu=100))
    assert build(tight).update_tokens(8) == 2048, "one row goes through, however long"


def test_a_machine_without_gpus_has_all_actors_in_one_memory() -> None:
    config = rto_8b(train=Train(batch_size=128, device="cpu"), ds=zero(2, "fp32"))
    one = rto_8b(1, train=Train(batch_size=128, device="cpu"), ds=zero(0, "fp32"))
    eight = needs(config)["sampling"].groups["engine"]
    alone = needs(one)["sampling"].groups["engine"]
    assert sum(eight.values()) == 8 * sum(alone.values())
    assert alone["weights"] == 4 * LLAMA_8B.params


def test_host_memory_of_a_node() -> None:
    config = rto_8b(ds=zero(2, offload=True))
    node = {need.phase: need.groups for need in host_needs(build(config), 8)}
    size = 2 * LLAMA_8B.params
    assert node["start"]["policy"]["loading"] == 8 * size
    assert node["start"]["scorer"]["loading"] == 8 * size
    # Per rank: fp32 weights and gradients of 4 GiB, two means, two bf16 copies of 2, a gradient.
    states = 2 * 2**32 + LLAMA_8B.params + 2 * 2**31 + 2**30
    assert node["running"]["policy"]["offloaded optimizer"] == pytest.approx(8 * states, rel=1e-9)
    frozen = 2 * (2 * LLAMA_8B.page_locked + 1_400_000_000)
    assert node["running"]["scorer"]["frozen models"] == 8 * frozen
    assert node["checkpoint"]["policy"]["export"] == size
    assert node["push"] == node["running"], "over IPC nothing passes through the host"


def test_a_node_holds_the_actors_that_are_on_it() -> None:
    config = rto_8b(ds=zero(2, offload=True))
    whole = host_needs(build(config), 8)[1].groups["policy"]["offloaded optimizer"]
    half = host_needs(build(config), 4)[1].groups["policy"]["offloaded optimizer"]
    assert half == whole / 2


def test_a_checkpoint_that_is_written_beside_training_waits_in_host_memory() -> None:
    n = LLAMA_8B.params

    def waits(gpus_per_node: int, stage: Literal[0, 2]) -> float:
        config = rto_8b(ds=zero(stage), ckpt=Ckpt(async_write=True))
        running = host_needs(build(config), gpus_per_node)[1]
        return running.groups["policy"]["checkpoint in writing"]

    # Weights of 2 bytes by rank 0; 12 bytes of fp32 weights and means, an eighth by each rank.
    assert waits(8, 2) == 14 * n
    assert waits(4, 2) == 8 * n
    assert waits(4, 0) == 14 * n, "without ZeRO rank 0 writes everything"
    assert "checkpoint in writing" not in host_needs(build(rto_8b()), 8)[1].groups["policy"]


def test_the_object_store_holds_pushed_weights_and_rollouts() -> None:
    vllm = VLLM(num_engines=8, engine="vllm", sync_backend="object_store")
    node = {need.phase: need.groups for need in host_needs(build(rto_8b(vllm=vllm)), 8)}
    assert node["push"]["driver"]["object store"] == 2 * LLAMA_8B.params
    assert node["running"]["driver"]["rollouts"] == 64 * 1024 * 2048


def test_disk_holds_the_kept_checkpoints_one_in_writing_and_exports() -> None:
    config = rto_8b(ckpt=Ckpt(max_num=3))
    n, critic = LLAMA_8B.params, 1_235_816_448
    # Weights 2 and fp32 states 12, four times; `last`, `best` and a draft.
    assert disk(build(config)) == {"checkpoints": 4 * 14 * (n + critic), "exports": 3 * 2 * n}
    average = rto_8b(ckpt=Ckpt(max_num=1), train=Train(batch_size=128, enable_ema=True))
    assert disk(build(replace(average)))["checkpoints"] == 2 * (14 * (n + critic) + 4 * n)
    valued = rto_8b(critic=Critic(num_gpus_per_node=8, save_value_network=True))
    assert disk(build(valued))["exports"] == 3 * 2 * (n + critic)


def test_an_offline_stage_has_no_engine_and_no_scorer_after_its_scores() -> None:
    found = build(rto_8b())
    groups = {name: spec for name, spec in found.plan.groups.items() if name != "engine"}
    offline: Setup = replace(
        found, online=False, plan=replace(found.plan, groups=groups), frozen=(LLAMA_8B,)
    )
    phases = {need.phase: need for need in gpu_needs(offline, CARD)}
    assert list(phases) == ["start", "scoring", "update", "checkpoint"]
    assert phases["update"].groups["scorer"] == {"process": CONTEXT}
    assert phases["scoring"].groups["scorer"]["parameters"] == 2 * LLAMA_8B.params


def test_transformers_engine_gives_its_cache_back() -> None:
    vllm = VLLM(engine="transformers", num_engines=8)
    phases = needs(rto_8b(vllm=vllm, rollout=RolloutSection(batch_size=1024)))
    assert set(phases["sampling"].groups["engine"]) == {"process", "weights", "KV cache"}
    assert set(phases["push"].groups["engine"]) == {"process", "weights"}
    assert set(phases["update"].groups["engine"]) == {"process"}
