"""A small online run on real Ray, vLLM and DeepSpeed, and what it leaves to compare."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rto.quickstart.data import write_task
from rto.quickstart.tokenizer import build_base_model
from rto.tracking.rollout_read import find_rollouts, read_rollouts

REWARD_FUNC = """
import time
def reward_func(queries, prompts, labels):
    time.sleep({seconds})
    return [float(query.split().count("the")) for query in queries]
"""
TIMED = ("time", "rate/")


@dataclass(frozen=True)
class Task:
    """PPO of a tiny model: two policy ranks, a critic, a reference and an engine."""

    root: Path
    prompts: Path

    def flags(self, name: str, iterations: int, **more: object) -> list[str]:
        base = self.root / "base"
        flags: dict[str, object] = {
            "algo": "ppo", "actor.model_name_or_path": base, "actor.num_gpus_per_node": 2,
            "actor.adam.lr": 1e-3, "critic.model_name_or_path": base, "critic.adam.lr": 1e-3,
            "reward.func_path": self.root / "reward.py", "data.prompt_dataset": self.prompts,
            "data.input_key": "prompt", "data.max_len": 64, "data.apply_chat_template": "true",
            "rollout.batch_size": 4, "rollout.n_samples_per_prompt": 2,
            "rollout.max_new_tokens": 8, "train.batch_size": 4, "train.max_steps": iterations,
            "train.num_episodes": 10000, "train.device": "cpu", "ds.param_dtype": "fp32",
            "ckpt.save_steps": 1, "ckpt.output_dir": self.root / name,
            "logger.tensorboard": "false", "ray.object_store_gib": 0.3,
        }  # fmt: skip
        flags |= {name.replace("__", "."): value for name, value in more.items()}
        return [f"--{name}={value}" for name, value in flags.items()]

    def left(self, name: str) -> Left:
        return left_by(self.root / name)


def write_small_task(root: Path, *, seconds: float = 0.0) -> Task:
    """``seconds``: what its reward function takes, for all responses of an iteration."""
    build_base_model(root / "base", seed=0)
    data = write_task(root / "data", seed=0, num_sft=1, num_pairs=1, num_prompts=16, num_eval=1)
    (root / "reward.py").write_text(REWARD_FUNC.format(seconds=seconds))
    return Task(root, data.prompts)


@dataclass(frozen=True)
class Left:
    """Of a run: everything but the time that it took. ``keys`` has (iteration, prompt, sample) as
    often as the rollouts have it."""

    weights: dict[str, torch.Tensor]
    metrics: list[dict[str, float]]
    rollouts: dict[int, list[dict[str, Any]]]

    @property
    def keys(self) -> list[tuple[int, int, int]]:
        return [
            (number, row["prompt_id"], row["sample_index"])
            for number, rows in self.rollouts.items()
            for row in rows
        ]

    def differences(self, other: Left) -> list[str]:
        """What of two runs is not the same to the last bit."""
        found = [
            name
            for name, weight in self.weights.items()
            if not torch.equal(weight, other.weights[name])
        ]
        found += ["metrics"] * (self.metrics != other.metrics)
        found += ["rollouts"] * (self.rollouts != other.rollouts)
        return found + ["a key twice"] * (len(set(self.keys)) != len(self.keys))


def rows_of(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def left_by(folder: Path) -> Left:
    return Left(
        load_file(folder / "last" / "model.safetensors"),
        [
            {name: x for name, x in row.items() if not name.startswith(TIMED)}
            for row in rows_of(folder)
        ],
        {number: list(read_rollouts(path)) for number, path in find_rollouts(folder).items()},
    )
