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
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from rto.cli.one_line_parser import OneLineParser, whole
from rto.evaluation.statistics import Mean
from rto.quickstart.stages import (
    NUM_EVAL,
    NUM_PAIRS,
    NUM_PROMPTS,
    NUM_SFT,
    SAMPLES_PER_PROMPT,
    STAGES,
    PolicyRow,
    stage_config,
)
from rto.runs.run_report import add_report
from rto.sections.run_config import RunConfig
from rto.tracking.console import figure, table
from rto.tracking.quiet import quiet

MAKES = {
    "sft": "the policy that all others start from",
    "reward": "the reward model that PPO and RTO ask",
    "dpo": "a policy, and the token rewards of RTO",
    "ppo": "a policy",
    "rto": "a policy",
}
MINUTES = "5 to 11"
"""On two cores, as docs/results/quickstart.md measured it."""


def main(argv: Sequence[str]) -> int:
    parser = OneLineParser(prog="rto quickstart", description=__doc__)
    parser.add_argument(
        "--seed", type=whole(0), default=0, help="seed of the base model and the data"
    )
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    root = Path("runs/quickstart")
    announce(root)
    empty(root)
    from rto.quickstart.run import run_recipe

    made = run_recipe(root, seed=arguments.seed)
    total = time.monotonic() - started
    summary = {
        "seconds": round(total, 1),
        "stages": {name: asdict(each) for name, each in made.rows.items()},
        **{f"rto_minus_{name}": asdict(gain) for name, gain in made.gains.items()},
        "stage_seconds": {name: round(value, 1) for name, value in made.seconds.items()},
        "seed": arguments.seed,
    }
    (root / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    report(made.rows, made.gains, made.seconds, total, root)
    add_report(root)
    return 0


def announce(root: Path) -> None:
    """What will happen, before anything is imported or written."""
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


def empty(root: Path) -> None:
    """A folder for everything, with its logs; what an earlier quickstart left is removed."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "logs").mkdir(parents=True)
    quiet(root / "logs")


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


def report(
    rows: Mapping[str, PolicyRow],
    gains: Mapping[str, Mean],
    seconds: Mapping[str, float],
    total: float,
    root: Path,
) -> None:
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
    moved = {name: each.kl for name, each in rows.items() if name != "sft"}
    farthest = max(moved, key=lambda name: moved[name])
    each = ", ".join(
        f"{name.upper()} {figure(kl)} nats in {steps[name]} steps" for name, kl in moved.items()
    )
    return (
        f"The intervals are over prompts, of one seed, which does not order the methods; and the "
        f"policies are not equally far from SFT: {farthest.upper()} moved farthest (KL: {each})."
    )
