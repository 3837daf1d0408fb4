"""A small online run on GPUs that are somewhere else, by its flags, and a folder that it left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from known_shapes import LLAMA

from rto.planning.cost import iteration
from rto.planning.rates import Rates
from rto.runs.planned import planned, weigh
from rto.runs.timed import Timed, timed
from rto.sections.parse import dump, parse_run
from rto.sections.run_config import RunConfig
from run_folders import metrics_row, write_run

MODEL = {**LLAMA, "hidden_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 32,
         "intermediate_size": 8192, "mean": 0.5, "std": 2.0}  # fmt: skip
"""Two layers of Llama-3.2-1B, as a policy and as a reward model."""
PARAMS = 2 * 128256 * 2048 + 2 * (2048 * (2 * 2048 + 2 * 512 + 3 * 8192) + 2 * 2048) + 2048
GPUS = ("--plan.gpus", "8xA100-80")


def flags(root: Path, *more: str) -> list[str]:
    """PPO on eight GPUs with one small model as policy, critic, reference and reward model."""
    folder = root / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL))
    model = str(folder)
    groups = [f"--{name}.num_gpus_per_node=8" for name in ("actor", "critic", "ref")]
    return [
        *("--algo", "ppo", "--actor.model_name_or_path", model),
        *("--reward.model_name_or_path", model, "--data.prompt_dataset", "org/prompts"),
        *("--data.max_len", "2048", "--rollout.max_new_tokens", "1024", "--vllm.num_engines", "8"),
        *groups,
        *more,
    ]


def read(root: Path, *more: str) -> RunConfig:
    return parse_run("train", flags(root, *more)).config


def time_of(config: RunConfig) -> Timed | str:
    settled, planner = planned("train", config)
    return timed(planner(settled), planner, weigh(settled, planner).capacity)


def modelled(found: Timed | str) -> Timed:
    """The time, where there is one."""
    assert isinstance(found, Timed), found
    return found


def write_measured(
    root: Path, *, update: float = 1.0, iterations: int = 3, more: Sequence[str] = ()
) -> Path:
    """The folder of such a run, with prompts of 200 and responses of 300 tokens, as the model has
    it but for an update that took ``update`` times as long."""
    config = read(root, *GPUS, "--plan.prompt_tokens", "200", "--plan.response_tokens", "300")
    job = modelled(time_of(config)).job
    stages = iteration(job, Rates())
    seconds = {name: stages[name].seconds for name in ("generate", "score", "update", "sync")}
    seconds["update"] *= update
    total = sum(seconds.values()) + stages["driver"].seconds
    columns = {
        **{f"time/{name}": value for name, value in seconds.items()},
        "response/num": 1024.0,
        "response/length": 300.0,
        "rate/score_tokens_per_s": 1024 * 500 / seconds["score"],
        "time/iteration": total,
        "time/other_share": stages["driver"].seconds / total,
    }
    folder = write_run(root / "measured", iterations=iterations)
    (folder / "config.yaml").write_text(dump(read(root, *more), "train"))
    rows = [json.dumps(metrics_row(i, **columns)) for i in range(iterations)]
    (folder / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return folder
