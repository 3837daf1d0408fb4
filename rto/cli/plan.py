"""`rto plan`: whether a run fits a machine, phase by phase, from config.json of its models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from rto.errors import UserError
from rto.sections.parse import parse_run
from rto.tracking.console import table
from rto.tracking.quiet import quiet

if TYPE_CHECKING:
    from rto.planning.memory import Need, Setup
    from rto.planning.verdict import Verdict

STAGES = ("sft", "reward", "dpo", "fit", "train")
GIB = 1024**3


def main(argv: Sequence[str]) -> int:
    """``rto plan [STAGE] ARGUMENTS``: those of `rto STAGE`, which is `train` if it is not named.

    Raises:
        UserError: the run does not fit.
    """
    stage, rest = (argv[0], argv[1:]) if argv and argv[0] in STAGES else ("train", argv)
    parsed = parse_run(stage, rest)
    quiet(None)
    from rto.cli.plan_time import print_time
    from rto.runs.planned import planned, weigh

    config, planner = planned(stage, parsed.config)
    setup = planner(config)
    print_models(setup, str(planner.method.card))
    verdict = weigh(config, planner)
    print_verdict(verdict, setup)
    print_time(setup, planner, verdict.capacity)
    return 0


def print_models(setup: Setup, title: str) -> None:
    names = [("policy", setup.policy), ("critic", setup.critic)]
    told = [
        f"{name} of {model.shape.params / 1e6:,.1f} M parameters"
        + (f", {model.params / 1e6:,.1f} M of them in adapters" if model.adapted else "")
        for name, model in names
        if model is not None
    ]
    frozen = ", ".join(f"{shape.params / 1e6:,.1f} M" for shape in setup.frozen)
    Console().print(f"{title}: {'; '.join(told)}" + (f"; frozen: {frozen}" if frozen else ""))


def print_verdict(verdict: Verdict, setup: Setup) -> None:
    """The needs as tables, then the verdict.

    Raises:
        UserError: the run does not fit; says by how much and what would make it fit.
    """
    console = Console()
    capacity = verdict.capacity.gpu
    for place in dict.fromkeys(need.place for need in verdict.gpu):
        needs = [need for need in verdict.gpu if need.place == place]
        console.print(table(list(_phases(needs, capacity)), title=f"memory of a {place}, GiB"))
    fullest = verdict.fullest
    console.print(table(list(_parts(fullest)), title=f"in {fullest.phase}, the fullest phase"))
    if verdict.host:
        rows = list(_phases(verdict.host, verdict.capacity.host))
        console.print(table(rows, title="host memory of a node, GiB"))
    _print_engine(verdict, setup, console)
    from rto.planning.memory import disk

    needed = disk(setup)
    parts = ", ".join(f"{name} {gib(value)}" for name, value in needed.items())
    console.print(f"disk: about {gib(sum(needed.values()))} ({parts})")
    if not verdict.fits:
        raise UserError(verdict.told)
    console.print(verdict.told, soft_wrap=True)


def _print_engine(verdict: Verdict, setup: Setup, console: Console) -> None:
    if not setup.online or setup.on_cpu or setup.config.vllm.engine != "vllm":
        return
    share = setup.config.vllm.memory_share(setup.plan.beside_engine)
    line = f"an engine takes {share:.0%} of its GPUs"
    if verdict.cache_tokens is not None:
        longest = setup.config.data.max_len
        line += (
            f"; its KV cache holds {verdict.cache_tokens:,} tokens, "
            f"{verdict.cache_tokens // longest:,} rows of {longest:,}"
        )
    console.print(line, soft_wrap=True)


def _phases(needs: Sequence[Need], have: float | None) -> Iterator[Mapping[str, object]]:
    """A row per phase: what each group has, all of them, and what is left."""
    for need in needs:
        left = {} if have is None else {"free": _gib(have - need.total)}
        groups = {name: _gib(need.group(name)) for name in need.groups}
        yield {"phase": need.phase, **groups, "all": _gib(need.total), **left}


def _parts(need: Need) -> Iterator[Mapping[str, object]]:
    for name, parts in need.groups.items():
        for part, value in parts.items():
            yield {"group": name, "for": part, "GiB": _gib(value)}


def _gib(value: float) -> str:
    return f"{value / GIB:,.2f}"


def gib(value: float) -> str:
    return f"{_gib(value)} GiB"
