"""The quickstart's work: base model and data made, stages trained, policies judged."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rto.cluster import launch
from rto.cluster.session import warm_actors
from rto.data.loaders.prompts import load_prompts
from rto.data.templates import load_template
from rto.evaluation.statistics import Mean, bootstrap
from rto.models.device import device_type
from rto.quickstart.data import write_task
from rto.quickstart.gold import gold_reward
from rto.quickstart.stages import (
    NUM_EVAL,
    NUM_FEEDBACK,
    NUM_PAIRS,
    NUM_PROMPTS,
    NUM_SFT,
    SAMPLES_PER_PROMPT,
    STAGES,
    PolicyRow,
    stage_config,
)
from rto.quickstart.tokenizer import build_base_model
from rto.runs.evaluate import Evaluated, evaluate_policies
from rto.runs.execute import execute
from rto.runs.prepare import reward_sources
from rto.sections.run_config import RunConfig
from rto.tracking.console import figure
from rto.tracking.phases import begin
from rto.types import Role

JUDGED = ("sft", "dpo", "ppo", "rto")
COMPARED = ("sft", "ppo", "dpo")
"""Policies that RTO is compared with."""
MOST_ACTORS = 6
"""Two policy ranks, two critic ranks, a scorer and an engine."""


@dataclass(frozen=True)
class Recipe:
    """What came of all stages: each policy's figures, RTO's gains over others, and the seconds."""

    rows: dict[str, PolicyRow]
    gains: dict[str, Mean]
    seconds: dict[str, float]


def run_recipe(root: Path, *, seed: int) -> Recipe:
    """Make everything in ``root``, train each stage and judge the policies."""
    prepare(root, seed=seed)
    config = stage_config("rto", root / "rto")
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
    return Recipe(rows, gains, seconds)


def prepare(root: Path, *, seed: int) -> None:
    """Base model, tokenizer and data."""
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


def run_stage(stage: str, folder: Path) -> float:
    """Run one stage; returns its seconds, start-up included."""
    print(f"\n== {stage}", flush=True)
    started = time.monotonic()
    finished = execute(STAGES[stage], stage_config(stage, folder))
    seconds = time.monotonic() - started
    figures = [f"{name} {figure(value)}" for name, value in finished.metrics.items()]
    print(f"{stage} done in {seconds:.0f} s: {', '.join(figures)}", flush=True)
    return seconds


def judge(root: Path, config: RunConfig) -> dict[str, Evaluated]:
    """Every policy's answers to the held-out prompts."""
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
    by_prompt: dict[int, list[float]] = {}
    for rollout in result.rollouts:
        gold = gold_reward(str(rollout.prompt.label), rollout.text)
        by_prompt.setdefault(rollout.prompt.id, []).append(gold)
    return np.array([np.mean(by_prompt[key]) for key in sorted(by_prompt)])


def paired_gain(ours: Evaluated, theirs: Evaluated) -> Mean:
    """Gold reward of one policy minus another's, prompt by prompt."""
    return bootstrap(gold_by_prompt(ours) - gold_by_prompt(theirs))


def row(result: Evaluated) -> PolicyRow:
    return PolicyRow(
        gold_reward=bootstrap(gold_by_prompt(result)),
        reward=float(result.scored[Role.REWARD].mean()),
        kl=float(result.kl.mean()),
        length=float(result.scored.tokens.response_mask.sum(-1).float().mean()),
    )
