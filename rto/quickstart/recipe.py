"""The whole recipe on a toy with a known gold reward: SFT, reward model, DPO, PPO and RTO.

Everything is made here: tokenizer, base model, data. Each stage is a run of the command line's
own program on real Ray, vLLM and DeepSpeed; afterwards all policies answer the same held-out
prompts and are judged by the gold reward.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rto.cli.one_line_parser import OneLineParser, whole
from rto.cluster import launch
from rto.cluster.session import warm_actors
from rto.evaluation.statistics import Mean, bootstrap
from rto.resources import CONFIGS
from rto.runs.run_report import add_report
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig
from rto.tracking.phases import begin

if TYPE_CHECKING:
    from rto.runs.evaluate import Evaluated

STAGES = {
    "sft": "sft",
    "reward": "reward",
    "dpo": "dpo",
    "ppo": "train",
    "rto": "train",
}
"""Stage -> the command that runs ``examples/configs/quickstart-STAGE.yaml``."""

JUDGED = ("sft", "dpo", "ppo", "rto")
COMPARED = ("sft", "ppo", "dpo")
"""Policies that RTO is compared with."""
MAKES = {
    "sft": "the policy that all others start from",
    "reward": "the reward model that PPO and RTO ask",
    "dpo": "a policy, and the token rewards of RTO",
    "ppo": "a policy",
    "rto": "a policy",
}
MINUTES = "5 to 11"
"""On two cores, as docs/results/quickstart.md measured it."""
NUM_SFT, NUM_PAIRS, NUM_PROMPTS, NUM_EVAL, NUM_FEEDBACK = 8000, 8000, 4000, 192, 4000
SAMPLES_PER_PROMPT = 4
MOST_ACTORS = 6
"""Two policy ranks, two critic ranks, a scorer and an engine."""


@dataclass(frozen=True)
class PolicyRow:
    """What the table says of one policy."""

    gold_reward: Mean
    reward: float
    kl: float
    length: float


def main(argv: Sequence[str]) -> int:
    parser = OneLineParser(prog="rto quickstart", description=__doc__)
    parser.add_argument(
        "--seed", type=whole(0), default=0, help="seed of the base model and the data"
    )
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    root = Path("runs/quickstart")
    announce(root)
    prepare(root, seed=arguments.seed)
    config = stage_config("rto", root / "rto")
    from rto.models.device import device_type

    device = device_type(config.train.device)
    # One local cluster for all stages; each takes over the processes of those before it.
    launch.start(config.ray, device=device, num_actors=MOST_ACTORS, log_dir=root / "logs")
    try:
        with warm_actors():
            seconds = {stage: run_stage(stage, root / stage) for stage in STAGES}
            results = judge(root, config)
    finally:
        launch.stop()
    rows = {name: row(result) for name, result in results.items()}
    gains = {name: paired_gain(results["rto"], results[name]) for name in COMPARED}
    total = time.monotonic() - started
    summary = {
        "seconds": round(total, 1),
        "stages": {name: asdict(each) for name, each in rows.items()},
        **{f"rto_minus_{name}": asdict(gain) for name, gain in gains.items()},
        "stage_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "seed": arguments.seed,
    }
    (root / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    report(rows, gains, seconds, total, root)
    add_report(root)
    return 0


def announce(root: Path) -> None:
    """What will happen, before anything is imported or written."""
    from rich.console import Console

    from rto.tracking.console import table

    lines = [
        {"stage": stage, "makes": MAKES[stage], "trains on": work(stage, stage_config(stage, root))}
        for stage in STAGES
    ]
    console = Console()
    console.print(table(lines, title="quickstart: a model of 0.6M parameters on a generated task"))
    console.print(
        f"Then each policy answers {NUM_EVAL} held-out prompts {SAMPLES_PER_PROMPT} times; a "
        f"program, the gold reward, judges. About {MINUTES} minutes on two cores."
    )
    print(f"results: {root.absolute()} (replaces those of an earlier quickstart)", flush=True)


def work(stage: str, config: RunConfig) -> str:
    """How much a stage trains on, in words."""
    train, rollout = config.train, config.rollout
    if STAGES[stage] == "train":
        whole = NUM_PROMPTS // rollout.batch_size * train.num_episodes
        count = min(whole, train.max_steps or whole)
        steps = count * config.steps_per_iteration
        return f"{steps} steps: {count} iterations of {rollout.num_sequences} sampled responses"
    rows, unit = (NUM_SFT, "demonstrations") if stage == "sft" else (NUM_PAIRS, "pairs")
    kept = round(rows * (1 - config.data.eval_ratio))
    whole = kept // train.batch_size * train.max_epochs
    return f"{min(whole, train.max_steps or whole)} steps of {train.batch_size} {unit}"


def prepare(root: Path, *, seed: int) -> None:
    """Base model, tokenizer and data in ``root``; what an earlier quickstart left is replaced."""
    from rto.tracking.quiet import quiet

    shutil.rmtree(root, ignore_errors=True)
    (root / "logs").mkdir(parents=True)
    quiet(root / "logs")
    # These import transformers, which reads its log settings then.
    from rto.quickstart.data import write_task
    from rto.quickstart.tokenizer import build_base_model

    build_base_model(root / "base", seed)
    write_task(
        root / "data",
        seed=seed,
        num_sft=NUM_SFT,
        num_pairs=NUM_PAIRS,
        num_prompts=NUM_PROMPTS,
        num_eval=NUM_EVAL,
        num_feedback=NUM_FEEDBACK,
    )


def stage_config(stage: str, folder: Path) -> RunConfig:
    flags = ["--config", str(CONFIGS / f"quickstart-{stage}.yaml")]
    return parse_run(STAGES[stage], [*flags, "--ckpt.output_dir", str(folder)]).config


def run_stage(stage: str, folder: Path) -> float:
    """Run one stage; returns its seconds, start-up included."""
    from rto.runs.execute import execute
    from rto.tracking.console import figure

    print(f"\n== {stage}", flush=True)
    started = time.monotonic()
    finished = execute(STAGES[stage], stage_config(stage, folder))
    seconds = time.monotonic() - started
    figures = [f"{name} {figure(value)}" for name, value in finished.metrics.items()]
    print(f"{stage} done in {seconds:.0f} s: {', '.join(figures)}", flush=True)
    return seconds


def judge(root: Path, config: RunConfig) -> dict[str, Evaluated]:
    """Every policy's answers to the held-out prompts."""
    from rto.data.loaders.prompts import load_prompts
    from rto.data.templates import load_template
    from rto.runs.evaluate import evaluate_policies
    from rto.runs.prepare import reward_sources

    begin("\n== evaluation")
    template = load_template(str(root / "base"), config.data, chat=config.data.apply_chat_template)
    tokenizer = template.tokenizer
    held_out = str(root / "data" / "eval_prompts.jsonl")
    # The label carries the request as it was written, which the gold reward reads.
    data = replace(config.data, prompt_dataset=[held_out], label_key="prompt")
    prompts = load_prompts(data, tokenizer, max_prompt_len=config.max_prompt_len, seed=0)
    return evaluate_policies(
        {name: str(root / name / "last") for name in JUDGED},
        prompts,
        config=config,
        rewards=reward_sources(config, template),
        samples_per_prompt=SAMPLES_PER_PROMPT,
        pad_token_id=int(str(tokenizer.pad_token_id)),
        stops=template.stop_token_ids,
        logs=root / "logs",
    )


def gold_by_prompt(result: Evaluated) -> np.ndarray:
    """Gold reward of each prompt [num_prompts], the mean over its samples."""
    from rto.quickstart.gold import gold_reward

    by_prompt: dict[int, list[float]] = {}
    for rollout in result.rollouts:
        gold = gold_reward(str(rollout.prompt.label), rollout.text)
        by_prompt.setdefault(rollout.prompt.id, []).append(gold)
    return np.array([np.mean(by_prompt[key]) for key in sorted(by_prompt)])


def paired_gain(ours: Evaluated, theirs: Evaluated) -> Mean:
    """Gold reward of one policy minus another's, prompt by prompt."""
    return bootstrap(gold_by_prompt(ours) - gold_by_prompt(theirs))


def row(result: Evaluated) -> PolicyRow:
    from rto.types import Role

    return PolicyRow(
        gold_reward=bootstrap(gold_by_prompt(result)),
        reward=float(result.scored[Role.REWARD].mean()),
        kl=float(result.kl.mean()),
        length=float(result.scored.tokens.response_mask.sum(-1).float().mean()),
    )


def report(
    rows: Mapping[str, PolicyRow],
    gains: Mapping[str, Mean],
    seconds: Mapping[str, float],
    total: float,
    root: Path,
) -> None:
    from rich.console import Console

    from rto.tracking.console import figure, table

    lines = [
        {
            "policy": name.upper(),
            "gold reward": f"{each.gold_reward.mean:.3f}",
            "95% interval": "[{:.3f}, {:.3f}]".format(*each.gold_reward.ci95),
            "model reward": figure(each.reward),
            "KL to SFT": figure(each.kl),
            "length": f"{each.length:.1f}",
            "stage seconds": f"{seconds[name]:.0f}",
        }
        for name, each in rows.items()
    ]
    console = Console()
    console.print(table(lines, title="quickstart: held-out prompts, gold reward is a program"))
    compared = [
        {
            "gold reward": f"RTO - {name.upper()}",
            "difference": f"{gain.mean:+.3f}",
            "paired 95% interval": "[{:+.3f}, {:+.3f}]".format(*gain.ci95),
            "holds 0": "no" if gain.significant else "yes",
        }
        for name, gain in gains.items()
    ]
    console.print(table(compared))
    steps = {name: made_steps(name, root / name) for name in rows}
    console.print(how_to_read(rows, steps))
    console.print(
        f"{total:.0f} s in all; run folders in {root.absolute()}, figures in summary.json"
    )


def made_steps(stage: str, folder: Path) -> int:
    """Optimizer steps that the run made."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").count("\n")
    online = STAGES[stage] == "train"
    return lines * (stage_config(stage, folder).steps_per_iteration if online else 1)


def how_to_read(rows: Mapping[str, PolicyRow], steps: Mapping[str, int]) -> str:
    """One sentence on what the differences do not say: distance from SFT, and seeds."""
    from rto.tracking.console import figure

    moved = {name: each.kl for name, each in rows.items() if name != "sft"}
    farthest = max(moved, key=lambda name: moved[name])
    each = ", ".join(
        f"{name.upper()} {figure(kl)} nats in {steps[name]} steps" for name, kl in moved.items()
    )
    return (
        f"The intervals are over prompts, of one seed, which does not order the methods; and the "
        f"policies are not equally far from SFT: {farthest.upper()} moved farthest (KL: {each})."
    )
