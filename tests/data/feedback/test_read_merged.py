"""A response that stands twice for its prompt is merged, counted and said, whoever reads it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rto.registry import build
from rto.runs.prepare import prepare_fit, prepare_online, prepare_reward
from rto.sections.parse import parse_run

ROWS = [
    ("w0", "w1", 1.0),
    ("w0", "w1", 2.0),
    ("w0", "w2", 0.0),
    ("w3", "w4", 1.0),
    ("w3", "w5", 0.0),
    ("w6", "w7", 1.0),
    ("w6", "w7", 3.0),
    ("w6", "w7", 2.0),
    ("w6", "w8", 0.0),
]
"""Of the prompt w0 one response repeats another, of w6 two."""


SAMPLED = ["--rollout.batch_size", "1", "--rollout.n_samples_per_prompt", "2"]
SAMPLED += ["--train.batch_size", "2"]


@pytest.fixture
def feedback(tmp_path: Path) -> Path:
    path = tmp_path / "feedback.jsonl"
    rows = [{"prompt": p, "response": r, "reward": reward} for p, r, reward in ROWS]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def prepared(command: str, method: str, argv: list[str]) -> Any:
    if command == "reward":
        return prepare_reward(parse_run("reward", argv).config)
    named = ["--algo", method] if command in ("fit", "train") else []
    config = parse_run(command, [*named, *argv]).config
    if command == "train":
        return prepare_online(config, partial(build, mode="online"))
    return prepare_fit(config, partial(build, mode="offline"))


@pytest.mark.parametrize(
    ("command", "method", "more"),
    [
        ("sft", "sft", []),
        ("reward", "reward", []),
        ("dpo", "dpo", []),
        ("fit", "rpo", []),
        ("train", "grpo", SAMPLED),
    ],
)
def test_merged_responses_are_said_alike(
    command: str,
    method: str,
    more: list[str],
    feedback: Path,
    tiny_model_dir: Path,
    tiny_reward_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["--actor.model_name_or_path", str(tiny_model_dir), "--data.feedback", str(feedback)]
    argv += ["--train.batch_size", "1", "--data.max_len", "32", "--train.device", "cpu", *more]
    if command == "train":
        argv += ["--reward.model_name_or_path", str(tiny_reward_dir)]
    run = prepared(command, method, argv)
    assert run.row_counts.merged == 3
    assert "3 responses that stand twice for their prompt are merged" in capsys.readouterr().out
