"""What ``--dry_run`` prints: actors, batches and the verdict of `rto plan`."""

from __future__ import annotations

from rich.console import Console

from rto.cli.plan import print_models, print_verdict
from rto.cli.plan_time import print_time
from rto.planning.batches import batch_arithmetic
from rto.runs.offline import OfflineRun
from rto.runs.online import OnlineRun
from rto.runs.planned import Planner, weigh
from rto.tracking.console import table


def print_plan(command: str, run: OnlineRun | OfflineRun) -> None:
    """
    Raises:
        UserError: the run does not fit the machine.
    """
    console, config = Console(), run.config
    planner = Planner(command, run.method, run.kind if isinstance(run, OfflineRun) else "policy")
    setup = planner(config)
    print_models(setup, str(run.method.card))
    console.print(table(_actor_rows(run), title="actors"))
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
    verdict = weigh(config, planner)
    print_verdict(verdict, setup)
    print_time(setup, planner, verdict.capacity)


def _actor_rows(run: OnlineRun | OfflineRun) -> list[dict[str, object]]:
    return [
        {
            "group": name,
            "actors": spec.num_actors,
            "CPUs each": f"{spec.num_cpus:g}",
            "GPUs each": f"{spec.num_gpus:g}",
            "bundles": spec.bundle_set,
        }
        for name, spec in run.plan.groups.items()
    ]
