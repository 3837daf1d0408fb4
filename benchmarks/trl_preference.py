"""TRL's DPOTrainer or KTOTrainer on one JSON object of settings; writes seconds and peak memory."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import datasets
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from benchmarks.trl_grpo import Clock


def main(settings: dict[str, Any]) -> None:
    clock = Clock()
    common: dict[str, Any] = {
        "output_dir": settings["output_dir"],
        "model_init_kwargs": {"dtype": "bfloat16"},
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": settings["batch"],
        "max_length": settings["max_len"],
        "max_steps": settings["steps"],
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "constant",
        "beta": settings["beta"],
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    given: dict[str, Any] = {
        "model": settings["model"],
        "train_dataset": rows(Path(settings["rows"])),
        "callbacks": [clock],
    }
    if settings["method"] == "dpo":
        trainer = DPOTrainer(args=DPOConfig(**common), **given)
    else:
        trainer = KTOTrainer(args=KTOConfig(**common), **given)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seen = {"seconds": clock.seconds, "peak": peak}
    Path(settings["output_dir"], "seen.json").write_text(json.dumps(seen), encoding="utf-8")


def rows(path: Path) -> datasets.Dataset:
    """Our pairs or single rated responses in TRL's conversational layouts."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = turn("user", row["prompt"])
        if "chosen" in row:
            answers = {key: turn("assistant", row[key]) for key in ("chosen", "rejected")}
        else:
            (response,) = row["responses"]
            completion = turn("assistant", response["text"])
            answers = {"completion": completion, "label": response["reward"] > 0}
        found.append({"prompt": prompt, **answers})
    return datasets.Dataset.from_list(found)


def turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
