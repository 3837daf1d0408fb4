"""What ``--dry_run`` prints: actors and resources, batch arithmetic, memory, steps, disk."""

from __future__ import annotations

from rich.console import Console

from rto.cluster.device import check_planned
from rto.cluster.plan import Plan
from rto.models.skeleton import Use, num_parameters
from rto.runs.estimate import batch_arithmetic, disk_bytes, gib, trainer_bytes
from rto.runs.offline import OfflineRun
from rto.runs.online import OnlineRun
from rto.sections.run_config import RunConfig
from rto.tracking.console import table


def print_plan(run: OnlineRun | OfflineRun) -> None:
    console = Console()
    config = run.config
    size = num_parameters(str(config.actor.model_name_or_path), _trained(run))
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


def _trained(run: OnlineRun | OfflineRun) -> Use:
    return "new reward" if isinstance(run, OfflineRun) and run.kind == "score" else "policy"


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
    width = 2 if config.ds.dtype == "bf16" else 4
    if name == "policy":
        return gib(trainer_bytes(size, config=config, ranks=config.actor.num_ranks))
    if name == "critic":
        own = config.critic.model_name_or_path or config.actor.model_name_or_path
        path = config.critic_path if isinstance(run, OnlineRun) else own
        critic = num_parameters(str(path), "critic")
        return gib(trainer_bytes(critic, config=config, ranks=config.critic.num_ranks))
    if name == "scorer":
        models = run.models
        policies = sum(num_parameters(path, "policy") for path in set(models.paths.values()))
        rewards = sum(num_parameters(path, "reward") for path in set(models.rewards))
        return gib((policies + rewards) * width)
    if run.plan.device == "cpu":
        return gib(size * width + config.vllm.cpu_kvcache_gib * 1024**3)
    return f"{config.vllm.memory_share(run.plan.beside_engine):.0%} of its GPUs"
