"""TRL's GRPOTrainer on one JSON object of settings; writes seconds and lengths of its steps."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer


class Clock(TrainerCallback):
    """Seconds of each step: from the end of the one before, as generation comes first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def main(settings: dict[str, Any]) -> None:
    lengths: list[float] = []
    clock = Clock()

    def reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float | None]:
        lengths.append(statistics.mean(len(ids) for ids in completion_ids))
        return [float(len(ids)) for ids in completion_ids]

    trainer = GRPOTrainer(
        settings["model"],
        reward_funcs=reward,
        args=config(settings),
        train_dataset=chats(Path(settings["prompts"])),
        callbacks=[clock],
    )
    trainer.train()
    seen = {"seconds": clock.seconds, "lengths": lengths}
    Path(settings["output_dir"], "seen.json").write_text(json.dumps(seen), encoding="utf-8")


def config(settings: dict[str, Any]) -> GRPOConfig:
    """One optimizer step per generation; bf16 weights, without recomputing activations."""
    return GRPOConfig(
        output_dir=settings["output_dir"],
        model_init_kwargs={"dtype": "bfloat16"},
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=settings["samples"],
        num_generations=settings["group_size"],
        max_completion_length=settings["new_tokens"],
        max_steps=settings["steps"],
        learning_rate=settings["learning_rate"],
        beta=settings["kl_coef"],
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def chats(prompts: Path) -> datasets.Dataset:
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    return datasets.Dataset.from_list(
        [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
