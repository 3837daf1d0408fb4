"""Quickstart's RTO stage as a user runs it: seconds to the first update, and what is overhead.

The real program with the real configuration, on models that are quickstart's but for training:
how long a step takes does not depend on what was learned.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, WORK, Figure, Options, script, toy

ITERATIONS = 8
CONFIG = Path("examples/configs/quickstart-rto.yaml")


def measure(options: Options) -> list[Figure]:
    flags = make_inputs()
    _, long = run(flags, iterations=3 if options.quick else ITERATIONS)
    shares = [line["time/other_share"] for line in long[1:]]
    others = Figure(
        "other_share",
        statistics.median(shares),
        f"median of {len(shares)} iterations after the first, targets and tracking included",
    )
    started, lines = run(flags, iterations=1)
    seconds = lines[0]["time"] - lines[0]["time/sync"] - started
    detail = "process start to the end of the first update, files in cache from an earlier run"
    return [Figure("first_step_seconds", seconds, detail), others]


def run(flags: list[str], *, iterations: int) -> tuple[float, list[dict[str, Any]]]:
    """Run the stage; returns when it was started and its lines of metrics."""
    folder = WORK / "quickstart-rto"
    shutil.rmtree(folder, ignore_errors=True)
    rto = str(Path(sys.executable).with_name("rto"))
    command = [rto, "train", "--config", str(CONFIG), *flags]
    command += ["--ckpt.output_dir", str(folder), "--train.max_steps", str(iterations)]
    started = time.time()
    subprocess.run(command, cwd=ROOT, check=True)
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return started, [json.loads(line) for line in text.splitlines()]


def make_inputs() -> list[str]:
    """The toy's model, reward model and prompts, made on first use, as flags."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from rto.models.load import write_reward_constants
    from rto.quickstart.data import write_task

    base, reward, data = toy(), WORK / "toy-reward", WORK / "toy-data"
    if not (data / "prompts.jsonl").is_file():
        write_task(data, seed=0, num_sft=0, num_pairs=0, num_prompts=1024, num_eval=0)
    if not (reward / "tokenizer.json").is_file():
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model.save_pretrained(reward)
        write_reward_constants(reward, mean=0.0, std=1.0)
        AutoTokenizer.from_pretrained(base).save_pretrained(reward)
    return [
        "--actor.model_name_or_path", str(base),
        "--dpo.model_name_or_path", str(base),
        "--reward.model_name_or_path", str(reward),
        "--data.prompt_dataset", str(data / "prompts.jsonl"),
    ]  # fmt: skip


if __name__ == "__main__":
    script(measure)
