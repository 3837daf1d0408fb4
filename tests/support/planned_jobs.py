"""Runs as the cost model takes them: the example configurations on Llama's sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_shapes import LLAMA_1B, LLAMA_8B

from rto.cluster.plan import plan_actors
from rto.planning.cards import Machine, find_card
from rto.planning.job import Workload
from rto.planning.memory import Setup
from rto.planning.shape import ModelShape
from rto.planning.states import TrainedModel
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig
from rto.sections.training import Actor, Critic

CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "configs"
TABLE = LLAMA_8B.embedding_params
ADAPTERS = {
    32: 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)),
    16: 16 * (2 * (2048 + 2048) + 2 * (2048 + 512) + 3 * (2048 + 8192)),
}
"""Layers of a model -> parameters of adapters of rank 1: rows and columns of q and o, k and v, and
the three of the MLP."""


def machine(gpus: int = 8, nodes: int = 1, card: str = "A100", gib: int = 80) -> Machine:
    found = find_card(card, gib)
    assert found is not None
    return Machine(found, gpus, nodes)


def rto_config(name: str = "rto-llama3-8b-8xa100", *flags: str) -> RunConfig:
    argv = ["--config", str(CONFIGS / f"{name}.yaml"), "--vllm.engine", "vllm", *flags]
    return parse_run("train", argv).config


def rto_setup(config: RunConfig, *, critic: bool = True) -> Setup:
    """RTO on these models: an 8B policy, reference and DPO policy, a 1B critic and reward model."""
    plan = plan_actors(
        config, device="cuda", num_cpus=4096, online=True, critic=critic, frozen=True
    )
    learns = _trained(LLAMA_1B, config.critic, config) if critic else None
    return Setup(
        config=config,
        plan=plan,
        policy=_trained(LLAMA_8B, config.actor, config),
        critic=learns,
        frozen=(LLAMA_8B, LLAMA_8B, LLAMA_1B),
    )


def _trained(shape: ModelShape, section: Actor | Critic, config: RunConfig) -> TrainedModel:
    adapted = config.ds.lora.rank > 0
    params = ADAPTERS[shape.layers] * config.ds.lora.rank if adapted else shape.params
    ranks, checkpointing = section.num_ranks, section.gradient_checkpointing_enable
    return TrainedModel(shape, params, shape.largest, ranks, checkpointing=checkpointing)


def rto_job(
    config: RunConfig | None = None,
    *,
    critic: bool = True,
    on: Machine | None = None,
    cache_tokens: int = 200_000,
    **changes: Any,
) -> Workload:
    """A rollout of 1,024 responses of 400 tokens to prompts of 250, on eight A100."""
    setup = rto_setup(config or rto_config(), critic=critic)
    job = Workload(setup, on or machine(), 250, 400, cache_tokens)
    return replace(job, **changes)
