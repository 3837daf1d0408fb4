"""RTO on SmolLM2 by the command line, as a user runs it."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.common import ENVIRONMENT, ROOT, Options, story_prompts
from benchmarks.gpu.place import Place, Row, script

CONFIG = "examples/configs/smollm2-rto-cpu.yaml"
ITERATIONS = 10
MEDIANS = {
    "iteration s": "time/iteration",
    "sample s": "time/generate",
    "score s": "time/score",
    "update s": "time/update",
    "push s": "time/sync",
}
"""Figure -> metric, of which it is the median over the iterations after the first."""
LARGEST = {
    "largest sampler gap": "sampler/abs_diff_mean",
    "largest probe gap": "sync/probe_mean_abs_diff",
}
"""Figure -> metric, of which it is the largest value."""


def measure(place: Place, case: str) -> Iterator[Row]:
    folder = place.work / "rto"
    shutil.rmtree(folder, ignore_errors=True)
    model = Options(quick=place.tiny).model_path()
    command = [str(Path(sys.executable).with_name("rto")), "train", *flags(place, model, folder)]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    yield Row(case, figures_of([json.loads(line) for line in lines], iterations(place)))


def iterations(place: Place) -> int:
    return 2 if place.tiny else ITERATIONS


def flags(place: Place, model: Path, folder: Path) -> list[str]:
    """The published configuration of this model on a CPU, on the place's device. The token rewards
    come from the policy's own start: how long that takes does not depend on what was learned."""
    given = {
        "--actor.model_name_or_path": model,
        "--critic.model_name_or_path": model,
        "--dpo.model_name_or_path": model,
        "--reward.model_name_or_path": reward_model(place, model),
        "--data.prompt_dataset": story_prompts(),
        "--data.input_key": "prompt",
        "--ckpt.output_dir": folder,
        "--train.max_steps": iterations(place),
        "--train.device": place.device,
        "--ds.param_dtype": place.dtype,
        "--train.num_episodes": ITERATIONS,
    }
    full = {
        "--data.max_len": 512,
        "--rollout.max_new_tokens": 256,
        "--train.max_tokens_per_gpu": 8192,
        "--ds.zero_stage": 2,
    }
    tiny = {"--data.max_len": 96, "--rollout.max_new_tokens": 32}
    pairs = {**given, **(tiny if place.tiny else full)}
    return ["--config", CONFIG, *(str(part) for pair in pairs.items() for part in pair)]


def reward_model(place: Place, model: Path) -> Path:
    """The model with a new scalar head, made on first use."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from rto.models.load import write_reward_constants

    folder = place.work / "models" / "reward"
    if not (folder / "tokenizer.json").is_file():
        classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
        classifier.save_pretrained(folder)
        write_reward_constants(folder, mean=0.0, std=1.0)
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def figures_of(lines: Sequence[Mapping[str, float]], expected: int) -> dict[str, float]:
    """
    Raises:
        ValueError: the run made another number of iterations, or a metric is not finite.
    """
    if len(lines) != expected:
        raise ValueError(f"the run has {len(lines)} lines of metrics, not {expected}")
    for number, line in enumerate(lines):
        wrong = [name for name, value in line.items() if not math.isfinite(value)]
        if wrong:
            raise ValueError(f"iteration {number}: {wrong[0]} is {line[wrong[0]]}")
    medians = {
        figure: statistics.median(line[name] for line in lines[1:])
        for figure, name in MEDIANS.items()
    }
    largest = {figure: max(line[name] for line in lines) for figure, name in LARGEST.items()}
    return {"iterations": len(lines), **medians, **largest}


if __name__ == "__main__":
    script(measure)
