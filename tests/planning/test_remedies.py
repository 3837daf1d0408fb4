"""The settings that a remedy changes, and the order in which they are tried."""

from __future__ import annotations

from planned_runs import build, rto_8b

from rto.planning.remedies import Remedy, changed, on_gpus, remedies
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, DeepSpeed
from rto.sections.training import Actor, Critic, Frozen, Train


def flags(config: RunConfig) -> list[str]:
    return [" ".join(each.flags) for each in remedies(build(config), 8)]


def test_a_remedy_sets_one_section_and_leaves_the_rest() -> None:
    config = rto_8b()
    chosen = [Remedy("ds", {"zero_stage": 3}), Remedy("ds", {"lora.rank": 64})]
    found = changed(config, [*chosen, Remedy("train", {"max_tokens_per_gpu": 8192})])
    assert (found.ds.zero_stage, found.ds.lora.rank, found.ds.lora.alpha) == (3, 64, 16)
    assert found.train.max_tokens_per_gpu == 8192
    assert found.actor == config.actor
    assert changed(config, []) == config
    assert Remedy("ref", {"offload": True}).flags == ["--ref.offload true"]


def test_of_two_values_for_one_setting_the_later_counts() -> None:
    budgets = [Remedy("train", {"max_tokens_per_gpu": value}) for value in (8192, 4096)]
    assert changed(rto_8b(), budgets).train.max_tokens_per_gpu == 4096


def test_what_is_tried_in_order() -> None:
    config = rto_8b(
        actor=Actor(num_gpus_per_node=8), ref=Frozen(num_gpus_per_node=8),
        vllm=VLLM(engine="vllm", num_engines=8, gpu_memory_utilization=0.3, enable_sleep=False),
    )  # fmt: skip
    assert flags(config) == [
        "--actor.gradient_checkpointing_enable true",
        "--train.max_tokens_per_gpu 8192",
        "--train.max_tokens_per_gpu 4096",
        "--rollout.max_tokens_per_gpu 8192",
        "--rollout.max_tokens_per_gpu 4096",
        "--ref.offload true",
        "--vllm.enable_sleep true",
        "--vllm.gpu_memory_utilization 0.25",
        "--vllm.gpu_memory_utilization 0.2",
        *(f"--vllm.gpu_memory_utilization {x}" for x in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        "--vllm.tensor_parallel_size 2 --vllm.num_engines 4",
        "--vllm.tensor_parallel_size 4 --vllm.num_engines 2",
        "--vllm.tensor_parallel_size 8 --vllm.num_engines 1",
        *(f"--ref.num_gpus_per_node {x}" for x in (4, 2, 1)),
        "--ds.zero_stage 3",
        "--ds.adam_offload true",
        "--ds.lora.rank 64",
    ]


def test_what_is_set_already_is_no_remedy() -> None:
    ds = DeepSpeed(zero_stage=3, param_dtype="bf16", adam_offload=True)
    found = flags(rto_8b(1, ds=ds))
    assert not [flag for flag in found if "ds." in flag and "lora" not in flag]
    assert not [flag for flag in found if "checkpointing" in flag or "ref." in flag]
    assert not [flag for flag in found if "tensor_parallel_size" in flag]


def test_on_a_cpu_nothing_is_offloaded() -> None:
    config = rto_8b(
        train=Train(batch_size=128, device="cpu"), ref=Frozen(num_gpus_per_node=8),
        critic=Critic(),
    )  # fmt: skip
    found = flags(config)
    assert "--critic.gradient_checkpointing_enable true" in found
    assert not [flag for flag in found if "offload" in flag or "ref." in flag or "vllm." in flag]


def test_more_gpus_are_whole_nodes() -> None:
    found = on_gpus(rto_8b(vllm=VLLM(engine="vllm", tensor_parallel_size=2, num_engines=4)), 32, 8)
    assert (found.actor.num_nodes, found.actor.num_gpus_per_node) == (4, 8)
    assert (found.critic.num_ranks, found.ref.num_replicas) == (32, 32)
    assert found.vllm.num_engines == 16
