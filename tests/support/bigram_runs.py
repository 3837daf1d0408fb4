"""Small whole runs on actors of one process: models that are a table of bigrams, a few steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from local_run import cpu_plan
from stored import stored
from tiny_tokenizers import tiny_tokenizer

from rto.cluster.build import Models
from rto.cluster.scorer import RewardSources
from rto.data.examples import Example
from rto.methods.ppo import PPO
from rto.methods.sft import SFT
from rto.runs.offline import OfflineRun
from rto.runs.online import OnlineRun
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Ckpt, Cluster, DeepSpeed, Logger
from rto.sections.training import Actor, RolloutSection, Train
from rto.tracking.rollout_read import find_rollouts, read_rollouts
from rto.types import Prompt, Role

EOS = 5
PROMPTS = [Prompt(i, (0, 1 + i % 3), f"p{i} ") for i in range(4)]
TEXTS = [(Example((i,), (1 + i % 3, 4, EOS), True),) for i in range(4)]
TIMED = ("time", "rate/")


def fours(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> list[float]:
    """How many tokens of each response are 4."""
    texts = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts, strict=True)]
    return [float(text.split("</s>")[0].split().count("4")) for text in texts]


def model_folder(place: Path) -> str:
    folder = place / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


def online(model: str, *, iterations: int = 5, save_steps: int = 2, lag: int = 0) -> OnlineRun:
    """Two prompts an iteration with two responses each."""
    config = RunConfig(
        actor=Actor(model_name_or_path=model),
        data=Data(max_len=16),
        train=Train(batch_size=4, device="cpu", async_lag=lag),
        rollout=RolloutSection(batch_size=2, n_samples_per_prompt=2, max_new_tokens=5),
        ckpt=Ckpt(save_steps=save_steps, load_enable=True),
        ds=DeepSpeed(param_dtype="fp32"),
        vllm=VLLM(engine="transformers"),
        logger=Logger(tensorboard=False),
        ray=Cluster(max_restarts=2),
    )
    return OnlineRun(
        config=config,
        method=PPO(),
        plan=cpu_plan(config),
        tokenizer=tiny_tokenizer(),
        prompts=PROMPTS,
        models=Models({Role.REFERENCE: model}),
        rewards=RewardSources(texts=[("fours.py", fours)], weights=[1.0], ends={EOS: "</s>"}),
        iterations=iterations,
        stops=(EOS,),
    )


def offline(model: str, *, steps: int = 5) -> OfflineRun:
    config = RunConfig(
        actor=Actor(model_name_or_path=model),
        data=Data(cache_dir=f"{model}.cache", max_len=16),
        train=Train(batch_size=2, max_epochs=9, max_steps=steps, device="cpu"),
        ckpt=Ckpt(save_steps=2, load_enable=True),
        ds=DeepSpeed(param_dtype="fp32"),
        logger=Logger(tensorboard=False),
    )
    return OfflineRun(
        config=config,
        method=SFT(),
        kind="policy",
        plan=cpu_plan(config),
        tokenizer=tiny_tokenizer(),
        train=stored(TEXTS),
        held_out=stored(TEXTS).select(np.arange(0)),
        num_steps=steps,
        visited=np.arange(len(TEXTS)),
    )


@dataclass(frozen=True)
class Left:
    """What a run left behind, but for the time that it took."""

    metrics: list[dict[str, Any]]
    rollouts: dict[int, list[dict[str, Any]]]
    policy: bytes


def left_of(folder: Path) -> Left:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Left(
        [{name: x for name, x in row.items() if not name.startswith(TIMED)} for row in rows],
        {number: list(read_rollouts(path)) for number, path in find_rollouts(folder).items()},
        (folder / "last" / "table").read_bytes(),
    )
