"""A planned online run -> what the cost model times, and the pace that another run measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rto.errors import UserError
from rto.planning.cards import Machine, known_cards
from rto.planning.job import Workload
from rto.planning.machine import Capacity
from rto.planning.measured import Compared, compare, seen_in, with_measured
from rto.planning.memory import Setup, engine_of, share
from rto.planning.rates import Rates
from rto.report.collect import read_run
from rto.runs.planned import Planner, planned
from rto.sections.parse import parse_run
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Planned
from rto.types import Role


@dataclass(frozen=True)
class Timed:
    """What is timed, at which rates, and what builds it anew on more nodes."""

    job: Workload
    rates: Rates
    build: Planner
    lag: int = 0
    compared: tuple[Compared, ...] = ()
    """The stages of ``plan.from_run``."""


def timed(setup: Setup, planner: Planner, capacity: Capacity) -> Timed | str:
    """A line in place of it where there is no time to give.

    Raises:
        UserError: ``plan.nodes`` or ``plan.from_run`` ask for what there is no time of.
    """
    config, plan = setup.config, setup.config.plan
    reason = _no_time(setup, capacity)
    if reason:
        for name in ("nodes", "from_run"):
            require(vars(plan)[name] is None, f"plan.{name} is set, and there is no time: {reason}")
        return f"time: {reason}"
    rates, lag = Rates(), config.train.async_lag
    if plan.from_run is None:
        return Timed(_job(setup, planner, capacity, rates), rates, planner, lag)
    before = _config_of(plan.from_run, plan)
    seen = seen_in(read_run(Path(plan.from_run), plan.from_run))
    own, builds = planned("train", before)
    reason = _no_time(builds(own), capacity)
    require(not reason, f"plan.from_run {plan.from_run}: {reason}")
    compared = compare(seen, _job(builds(own), builds, capacity, rates), rates)
    paced = replace(
        plan,
        prompt_tokens=plan.prompt_tokens or round(seen.prompt_tokens),
        response_tokens=plan.response_tokens or round(seen.response_tokens),
    )
    job = _job(planner(replace(config, plan=paced)), planner, capacity, rates)
    return Timed(job, with_measured(rates, compared), planner, lag, tuple(compared))


def _no_time(setup: Setup, capacity: Capacity) -> str:
    """Why the cost model says nothing; empty where it does."""
    if not setup.online:
        return "the cost model is of `rto train`"
    if setup.on_cpu:
        return "the cost model is of GPUs, and this is a CPU"
    if capacity.card is None:
        return f"the cost model knows these cards: {known_cards()}"
    if setup.config.vllm.engine != "vllm":
        return "the cost model is of vLLM's engines, and transformers samples here"
    return ""


def _job(setup: Setup, planner: Planner, capacity: Capacity, rates: Rates) -> Workload:
    """
    Raises:
        UserError: a mean above the longest.
    """
    assert capacity.card is not None
    assert capacity.gpu is not None
    config = setup.config
    prompt, response = config.max_prompt_len, config.max_new_tokens
    packs = config.ds.attn_implementation == "sdpa" or setup.policy.shape.encoder_layers > 0
    return Workload(
        setup=setup,
        machine=Machine(capacity.card, capacity.per_node, capacity.nodes),
        prompt_tokens=_mean(config, "prompt_tokens", prompt, rates.prompt_share),
        response_tokens=_mean(config, "response_tokens", response, rates.response_share),
        cache_tokens=engine_of(setup, capacity.gpu).cache_tokens(share(setup, capacity.gpu)),
        scores_policy=config.steps_per_iteration > 1 or Role.POLICY in planner.method.roles,
        shares_prompts=packs,
    )


def _mean(config: RunConfig, name: str, longest: int, usual: float) -> float:
    given: int | None = vars(config.plan)[name]
    if given is None:
        return usual * longest
    require(given <= longest, f"plan.{name} is {given}, the longest is {longest}: give the mean")
    return given


def _config_of(path: str, plan: Planned) -> RunConfig:
    """The configuration of a run, on our GPUs."""
    file = Path(path) / "config.yaml"
    if not file.is_file():
        raise UserError(f"plan.from_run {path}: it holds no config.yaml: name a run folder")
    config = parse_run("train", ["--config", str(file)]).config
    return replace(config, plan=Planned(gpus=plan.gpus, host_gib=plan.host_gib))
