"""What the preparation of a run reads, the table says that it reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from recorded import recorded

from rto.registry import build
from rto.runs.prepare import prepare_fit, prepare_online, prepare_reward
from rto.sections import reads
from rto.sections.parse import flat, parse_run

LOOKED_AT = {
    "algo.name",
    "critic.model_name_or_path",
    "ref.model_name_or_path",
    "dpo.model_name_or_path",
    "dpo.ref_model_name_or_path",
}
"""Looked at, whatever the method reads: tokenizers are compared, roles picked, the method built."""


def rows(path: Path, *, pairs: bool) -> str:
    answers = {"chosen": "w2", "rejected": "w3"} if pairs else {"answer": "w1"}
    lines = [
        {"prompt": f"w{i // 2}", "response": f"w{i}", "reward": i % 3, **answers} for i in range(8)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def seen(command: str, flags: Sequence[str]) -> tuple[set[str], str, dict[str, object]]:
    """What is read from the configuration, the method, and the settings."""
    config = parse_run(command, flags).config
    values = flat(config)
    method = str(reads.method_of(command, values))
    found: set[str] = set()
    noting = recorded(config, found)
    if command == "train":
        prepare_online(noting, partial(build, mode="online"))
    elif command == "reward":
        prepare_reward(noting)
    else:
        prepare_fit(noting, partial(build, mode="offline"))
    return found, method, values


@pytest.mark.parametrize(
    ("command", "chosen"),
    [
        ("sft", ""),
        ("reward", ""),
        ("dpo", "ipo"),
        ("fit", "rpo"),
        ("train", "ppo"),
        ("train", "rpo"),
    ],
)
def test_preparing_a_run_reads_no_more_than_the_table_says(
    command: str, chosen: str, tiny_model_dir: Path, tiny_reward_dir: Path, tmp_path: Path
) -> None:
    flags = ["--actor.model_name_or_path", str(tiny_model_dir), "--train.device", "cpu"]
    flags += ["--ds.param_dtype", "fp32"]
    flags += ["--train.batch_size", "2", "--data.max_len", "32"]
    if chosen:
        flags += ["--loss" if command == "dpo" else "--algo", chosen]
    path = rows(tmp_path / "rows.jsonl", pairs=command in ("reward", "dpo"))
    flags += {
        "sft": [
            "--data.dataset",
            path,
            "--data.input_key",
            "prompt",
            "--data.output_key",
            "answer",
        ],
        "reward": ["--data.dataset", path, "--data.prompt_key", "prompt"],
        "dpo": ["--data.dataset", path, "--data.prompt_key", "prompt"],
        "fit": ["--data.feedback", path],
        "train": ["--data.prompt_dataset", path, "--data.input_key", "prompt"],
    }[command]
    if command == "train":
        flags += ["--reward.model_name_or_path", str(tiny_reward_dir), "--rollout.batch_size", "2"]
        flags += ["--rollout.n_samples_per_prompt", "2"] if chosen == "rpo" else []
    found, method, values = seen(command, flags)
    assert "train.batch_size" in found
    unread = {name for name in found if not reads.reads(command, method, name, values)}
    assert unread - LOOKED_AT == set()
