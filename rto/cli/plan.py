"""What ``--dry_run`` prints: actors and resources, batch arithmetic, memory, steps, disk."""

from __future__ import annotations

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from rto.cluster.device import check_planned
from rto.cluster.estimate import batch_arithmetic, disk_bytes, gib, trainer_bytes
from rto.cluster.offline import OfflineRun
from rto.cluster.online import OnlineRun
from rto.cluster.plan import Plan
from rto.config import RunConfig
from rto.models.load import load_config
from rto.tracking.console import table


def print_plan(run: OnlineRun | OfflineRun) -> None:
    console = Console()
    config = run.config
    size = num_parameters(str(config.actor.model_name_or_path))
    console.print(f"{run.method.card}: policy of {size / 1e6:,.1f} M parameters")
    check_planned(config, run.plan)
    console.print(table(_actor_rows(run, config, size), title="actors"))
    if run.plan.device == "cuda":
        of = f" of {config.plan.gpus}" if config.plan.gpus else ""
        console.print(f"GPUs: {run.plan.total('GPU'):g}{of}")
    if isinstance(run, OnlineRun):
        lines = batch_arithmetic(config, iterations=run.iterations)
        rows = [{"quantity": x.name, "value": x.value, "from": x.why} for x in lines]
        console.print(table(rows, title="batches"))
        console.print(f"prompts: {len(run.prompts)}")
    else:
        console.print(
            f"rows: {len(run.train)} to train on, {len(run.held_out)} held out; "
            f"{run.num_steps} optimizer steps of {config.train.batch_size}"
        )
    console.print(f"disk: about {gib(disk_bytes(size, config=config))} for checkpoints and exports")


def num_parameters(path: str) -> int:
    """Parameters of a causal LM, from its config alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(path))
    return sum(p.numel() for p in model.parameters())


def _actor_rows(
    run: OnlineRun | OfflineRun, config: RunConfig, size: int
) -> list[dict[str, object]]:
    plan: Plan = run.plan
    return [
        {
            "group": name,
            "actors": spec.num_actors,
            "CPUs each": f"{spec.num_cpus:g}",
            "GPUs each": f"{spec.num_gpus:g}",
            "memory each": _memory(name, run, config, size),
            "bundles": spec.bundle_set,
        }
        for name, spec in plan.groups.items()
    ]


def _memory(name: str, run: OnlineRun | OfflineRun, config: RunConfig, size: int) -> str:
    width = 2 if config.ds.param_dtype == "bf16" else 4
    if name == "policy":
        return gib(trainer_bytes(size, config=config, ranks=config.actor.num_ranks))
    if name == "critic":
        critic = num_parameters(str(config.critic_path))
        return gib(trainer_bytes(critic, config=config, ranks=config.critic.num_ranks))
    if name == "scorer":
        paths = {*run.models.paths.values(), *run.models.rewards}
        return gib(sum(num_parameters(path) * width for path in paths))
    if run.plan.device == "cpu":
        return gib(size * width + config.vllm.cpu_kvcache_gib * 1024**3)
    return f"{config.vllm.gpu_memory_utilization:.0%} of its GPUs"
