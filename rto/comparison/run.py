"""Several methods on the same data, budget and prompts: trained, judged, written down."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from rto.card import Mode
from rto.cluster import launch
from rto.cluster.device import run_device
from rto.cluster.session import warm_actors
from rto.comparison.tables import ComparedRow, Judged, differences, plot, summarise, write_json
from rto.data.feedback.read import load_feedback
from rto.data.loaders.prompts import load_prompts
from rto.data.templates import load_template
from rto.errors import UserError
from rto.models.device import device_type, with_dtype
from rto.registry import card, takes_token_reward
from rto.runs.evaluate import Evaluated, evaluate_policies
from rto.runs.execute import execute
from rto.runs.rewards import reward_function, reward_sources
from rto.sections.data import Data
from rto.sections.parse import narrow, parse_run
from rto.sections.paths import absolute_paths
from rto.sections.run_config import RunConfig
from rto.sections.training import DPOModel
from rto.tracking.quiet import quiet
from rto.tracking.run_folder import versions
from rto.types import Role

Point = tuple[tuple[str, str], ...]
"""(setting, value) of each axis of a grid."""
MOST_ACTORS = 6
SELECTION_SHARE = 2
"""Where a grid is searched, every second prompt selects and the others judge."""
SECONDS = "seconds"
"""File in a run's folder that says how long it took: it is there once the run is finished."""


@dataclass(frozen=True)
class ComparedMethod:
    """A method as it is compared: ``label`` tells it from other entries."""

    label: str
    algo: str
    mode: Mode
    token_reward: bool = False
    """Beside a method without a critic: RTO's token reward, from the DPO policy of the config."""


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared. ``budget`` counts the sequences that each run trains on."""

    base: Sequence[str]
    entries: Sequence[ComparedMethod]
    seeds: int
    budget: int
    prompts: str
    root: Path
    judge: str | None = None
    samples: int = 2
    grid: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def points(self) -> list[Point]:
        """Every combination of the grid's values."""
        axes = [[(name, value) for value in values] for name, values in self.grid.items()]
        return list(itertools.product(*axes))


@dataclass(frozen=True)
class ComparedRun:
    """One trained policy of the comparison."""

    entry: ComparedMethod
    seed: int
    point: Point
    config: RunConfig

    @property
    def name(self) -> str:
        values = "".join(f"-{name.rsplit('.', 1)[-1]}-{value}" for name, value in self.point)
        label = re.sub(r"[^\w.-]", "-", self.entry.label)
        return f"{label}{values}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return Path(str(self.config.ckpt.output_dir))

    @property
    def command(self) -> str:
        return "train" if self.entry.mode == "online" else "fit"


def compare(plan: ComparisonPlan) -> dict[str, ComparedRow]:
    """Train, judge and write everything; a run that a former call finished is not trained again."""
    plan.root.mkdir(parents=True, exist_ok=True)
    (plan.root / "logs").mkdir(exist_ok=True)
    quiet(plan.root / "logs")
    runs = list(planned_runs(plan))
    base = parse_run("compare", plan.base).config
    device = device_type(base.train.device)
    started = launch.start(
        base.ray, device=device, num_actors=MOST_ACTORS, log_dir=plan.root / "logs"
    )
    try:
        with warm_actors():
            for number, run in enumerate(runs, 1):
                _train(run, f"{number}/{len(runs)}")
        judged = judge(plan, base, runs)
    finally:
        if started:
            launch.stop()
    start = judged.pop("start")
    methods, start = chosen(plan, runs, judged, start)
    rows = {label: summarise(results, start) for label, results in methods.items()}
    about = {"budget": plan.budget, "seeds": plan.seeds, "versions": versions()}
    write_json(plan.root / "compare.json", rows, differences(methods), about)
    plot(plan.root / "compare.png", methods, start)
    return rows


def entries(names: str) -> list[ComparedMethod]:
    """Entries of "dpo,rpo:online,grpo+rto"; a name given twice is compared with itself.

    Raises:
        UserError: no method of this name, or it does not train in this mode.
    """
    chosen_entries: list[ComparedMethod] = []
    for name in names.split(","):
        plain, _, mode = name.partition(":")
        algo = plain.removesuffix("+rto")
        modes = card(algo).modes
        if mode and mode not in modes:
            raise UserError(f"--algos {name}: {algo} trains {', '.join(modes)}")
        if algo != plain and not takes_token_reward(algo):
            raise UserError(f"--algos {name}: {algo} has no token reward; write {algo}")
        label = name
        while label in {entry.label for entry in chosen_entries}:
            label += "'"
        rewarded = algo != plain or algo == "rto"
        chosen_entries.append(ComparedMethod(label, algo, cast("Mode", mode or modes[0]), rewarded))
    return chosen_entries


def planned_runs(plan: ComparisonPlan) -> Iterator[ComparedRun]:
    """All runs, configured for the same budget."""
    for entry, point in itertools.product(plan.entries, plan.points):
        flags = [flag for name, value in point for flag in (f"--{name}", value)]
        config = parse_run("compare", [*plan.base, *flags], method=entry.algo).config
        config = with_dtype(config, run_device(config))
        config = _budgeted(config, plan, entry)
        for i in range(plan.seeds):
            # Entries of one name are different runs of it.
            seed = i + plan.seeds * entry.label.count("'")
            run = ComparedRun(entry, seed, point, config)
            folder = str(plan.root / "runs" / run.name)
            train, ckpt = replace(config.train, seed=seed), replace(config.ckpt, output_dir=folder)
            yield replace(run, config=absolute_paths(replace(config, train=train, ckpt=ckpt)))


def _budgeted(config: RunConfig, plan: ComparisonPlan, entry: ComparedMethod) -> RunConfig:
    train, sequences = config.train, config.train.batch_size
    if entry.mode == "online":
        per_iteration = config.rollout.num_sequences * train.max_epochs
        train = replace(train, max_steps=max(1, plan.budget // per_iteration))
    else:
        rows, shards = rows_per_group(config, entry.algo), config.num_shards
        train = replace(
            train,
            batch_size=shards * max(1, round(sequences / rows / shards)),
            max_steps=max(1, plan.budget // sequences),
            max_epochs=1_000,
        )
    return replace(
        config,
        dpo=config.dpo if entry.token_reward else DPOModel(),
        train=train,
    )


def rows_per_group(config: RunConfig, algo: str) -> float:
    """Sequences that one unit of an offline batch holds, on average."""
    feedback = card(algo).feedback
    if feedback != "rewards":
        return {"demonstrations": 1, "pairs": 2}[feedback]
    sources = config.data.dataset or [str(config.data.feedback)]
    data = config.data
    how = (data.dataset_split, data.layout, data.config_name, *data.columns)
    return _mean_responses(tuple(sources), *how)


@functools.cache
def _mean_responses(
    sources: tuple[str, ...], split: str, layout: str | None, subset: str | None, *columns: str
) -> float:
    data = Data(layout=layout, columns=list(columns), config_name=subset)
    rows = (row for name in sources for row in load_feedback(name, split=split, data=data))
    counts = [len(row.responses) for row in rows]
    return sum(counts) / len(counts)


def _train(run: ComparedRun, number: str) -> None:
    if is_trained(run):
        print(f"== {number} {run.name}: trained before", flush=True)
        return
    shutil.rmtree(run.folder, ignore_errors=True)
    print(f"\n== {number} {run.name}", flush=True)
    started = time.monotonic()
    execute(run.command, run.config)
    (run.folder / SECONDS).write_text(f"{time.monotonic() - started:.1f}\n", encoding="utf-8")


def is_trained(run: ComparedRun) -> bool:
    """Whether a former call finished this run with the same settings. Settings that are new since
    then count as their defaults; a file that this version cannot read is another run's."""
    if not (run.folder / SECONDS).is_file():
        return False
    try:
        written = ["--config", str(run.folder / "config.yaml")]
        former = parse_run("compare", written, method=run.entry.algo).config
        return narrow(run.command, former) == narrow(run.command, run.config)
    except UserError:
        return False


def judge(plan: ComparisonPlan, base: RunConfig, runs: Sequence[ComparedRun]) -> dict[str, Judged]:
    """The answers of every run, and of the policy that all started from."""
    chat = base.data.apply_chat_template
    template = load_template(str(base.actor.model_name_or_path), base.data, chat=chat)
    tokenizer = template.tokenizer
    data = replace(base.data, prompt_dataset=[plan.prompts], label_key=None)
    prompts = load_prompts(
        data,
        tokenizer,
        max_prompt_len=base.max_prompt_len,
        seed=0,
        encoder_decoder=template.encoder_decoder,
    )
    base = replace(base, reward=replace(base.reward, on_failure="stop"))
    sources = reward_sources(base, template)
    if plan.judge is not None:
        texts = [(plan.judge, reward_function(base.reward, plan.judge))]
        sources = replace(sources, normalise=(), model_names=(), texts=texts, weights=[1.0])
        base = replace(base, reward=replace(base.reward, model_name_or_path=[], weights=None))
    policies = {run.name: str(run.folder / "last") for run in runs}
    evaluations = evaluate_policies(
        {"start": str(base.actor.model_name_or_path), **policies},
        prompts,
        config=base,
        rewards=sources,
        samples_per_prompt=plan.samples,
        pad_token_id=int(str(tokenizer.pad_token_id)),
        stops=template.stop_token_ids,
        logs=plan.root / "logs",
    )
    costs = {run.name: _costs(run.folder) for run in runs}
    return {name: _judged(each, costs.get(name, {})) for name, each in evaluations.items()}


def _judged(result: Evaluated, costs: Mapping[str, float]) -> Judged:
    order = sorted(
        range(len(result.rollouts)),
        key=lambda i: (result.rollouts[i].prompt.id, result.rollouts[i].sample_index),
    )
    num_prompts = len({rollout.prompt.id for rollout in result.rollouts})
    rewards = result.scored[Role.REWARD][order].numpy().reshape(num_prompts, -1)
    return Judged(
        rewards=rewards,
        kl=float(result.kl.mean()),
        length=float(result.scored.tokens.response_mask.sum(-1).float().mean()),
        **costs,
    )


def _costs(folder: Path) -> dict[str, float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]

    def tokens(stage: str) -> float:
        rate, seconds = f"rate/{stage}_tokens_per_s", f"time/{stage}"
        return sum(row[rate] * row[seconds] for row in metrics if rate in row)

    return {
        "seconds": float((folder / SECONDS).read_text(encoding="utf-8")),
        "tokens_trained": tokens("update"),
        "tokens_sampled": tokens("generate"),
    }


def chosen(
    plan: ComparisonPlan, runs: Sequence[ComparedRun], judged: Mapping[str, Judged], start: Judged
) -> tuple[dict[str, list[Judged]], Judged]:
    """The runs of each method at its best grid point, and the start, on the judging prompts.

    Which point is best is told by other prompts than those that judge.
    """
    if len(plan.points) == 1:
        return {
            entry.label: [judged[run.name] for run in runs if run.entry == entry]
            for entry in plan.entries
        }, start

    def part(result: Judged, first: int) -> Judged:
        return replace(result, rewards=result.rewards[first::SELECTION_SHARE])

    best: dict[str, list[Judged]] = {}
    for entry in plan.entries:
        by_point: dict[Point, list[Judged]] = {point: [] for point in plan.points}
        for run in (run for run in runs if run.entry == entry):
            by_point[run.point].append(judged[run.name])
        scores = {p: [part(each, 0).rewards.mean() for each in by_point[p]] for p in by_point}
        point = max(scores, key=lambda p: sum(map(float, scores[p])))
        print(f"{entry.label}: {', '.join(f'{name} {value}' for name, value in point)}")
        best[entry.label] = [part(each, 1) for each in by_point[point]]
    return best, part(start, 1)
