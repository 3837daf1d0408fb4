"""Runs of known models for a plan, without a file: their shapes are written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llama_shapes import LLAMA_1B, LLAMA_8B

from rto.cluster.plan import plan_actors
from rto.planning.memory import Setup
from rto.planning.states import TrainedModel
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, DeepSpeed
from rto.sections.training import Actor, Critic, Frozen, RolloutSection, Train

ADAPTERS_OF_RANK_64 = 167_772_160
"""Of Llama-3-8B, on all linear layers."""


def rto_8b(ranks: int = 8, **sections: Any) -> RunConfig:
    """RTO with Llama-3-8B and a critic of 1B, as the paper has it, on so many GPUs of a node."""
    config = RunConfig(
        actor=Actor(num_gpus_per_node=ranks, gradient_checkpointing_enable=True),
        critic=Critic(num_gpus_per_node=ranks, gradient_checkpointing_enable=True),
        ref=Frozen(num_gpus_per_node=ranks, offload=True),
        data=Data(max_len=2048),
        rollout=RolloutSection(batch_size=1024, max_new_tokens=1024),
        train=Train(batch_size=128, device="cuda"),
        ds=DeepSpeed(zero_stage=2, param_dtype="bf16"),
        vllm=VLLM(engine="vllm", num_engines=ranks, gpu_memory_utilization=0.4),
    )
    return replace(config, **sections)


def build(config: RunConfig) -> Setup:
    """Policy, critic, reference and DPO policy of 8B and a reward model of 1B."""
    adapters = config.ds.lora.rank > 0
    trained = [
        TrainedModel(
            shape,
            ADAPTERS_OF_RANK_64 if adapters else shape.params,
            shape.intermediate if adapters else shape.largest,
            section.num_ranks,
            checkpointing=section.gradient_checkpointing_enable,
        )
        for shape, section in ((LLAMA_8B, config.actor), (LLAMA_1B, config.critic))
    ]
    device = "cpu" if config.train.device == "cpu" else "cuda"
    plan = plan_actors(config, device=device, num_cpus=16, online=True, critic=True, frozen=True)
    return Setup(config, plan, *trained, frozen=(LLAMA_8B, LLAMA_8B, LLAMA_1B))
