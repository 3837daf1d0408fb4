"""Every row of a data set is used or left out for a reason, before any actor starts."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from rto.data.accounting import HELD_OUT, NOT_REACHED, TOO_LONG, RowCounts
from rto.errors import UserError
from rto.registry import build
from rto.runs.prepare import prepare_fit, prepare_online
from rto.sections.parse import parse_run


@pytest.fixture
def flags(tiny_model_dir: Path, tmp_path: Path) -> list[str]:
    """Twelve rows of which two are longer than 32 tokens."""
    rows = [{"prompt": f"w{i}" + " w0" * (60 if i < 2 else 1), "answer": "w1"} for i in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    model = ["--actor.model_name_or_path", str(tiny_model_dir), "--ds.param_dtype", "fp32"]
    ranks = ["--actor.num_gpus_per_node", "1", "--train.device", "cpu"]
    data = ["--data.input_key", "prompt", "--data.max_len", "32", "--train.max_steps", "1"]
    return [*model, *ranks, *data, "--data.path", str(path)]


def given(flags: list[str], name: str) -> list[str]:
    return [name if flag == "--data.path" else flag for flag in flags]


def test_stored_rows(flags: list[str]) -> None:
    """Ten fit; three tenths of them are held out; the one step of four rows uses four."""
    argv = [
        *given(flags, "--data.dataset"),
        *("--data.output_key", "answer", "--data.eval_ratio", "0.3", "--train.batch_size", "4"),
    ]
    run = prepare_fit(parse_run("sft", argv).config, partial(build, mode="offline"))
    left = {TOO_LONG: 2, HELD_OUT: 3, NOT_REACHED: 3}
    assert run.row_counts == RowCounts("rows", 12, 4, left)


def test_kto_needs_another_prompt(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Its reference point is a response to another prompt; the mean of the batch needs none."""
    rows = [{"prompt": "w0", "completion": f"w{i}", "label": i > 1} for i in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    argv = ["--actor.model_name_or_path", str(tiny_model_dir), "--data.feedback", str(path)]
    argv += ["--train.batch_size", "1", "--data.max_len", "32", "--train.device", "cpu"]
    method = partial(build, mode="offline")
    with pytest.raises(UserError, match="there is 1 prompt to train on"):
        prepare_fit(parse_run("fit", ["--algo", "kto", *argv]).config, method)
    argv += ["--algo.kto.variant", "matched_mean"]
    assert len(prepare_fit(parse_run("fit", ["--algo", "kto", *argv]).config, method).train) == 1


def test_prompts(flags: list[str], tiny_reward_dir: Path) -> None:
    argv = [
        *given(flags, "--data.prompt_dataset"),
        *("--reward.model_name_or_path", str(tiny_reward_dir), "--rollout.max_new_tokens", "8"),
        *("--rollout.batch_size", "4", "--train.batch_size", "4"),
        *("--ref.num_gpus_per_node", "1", "--critic.num_gpus_per_node", "1"),
    ]
    config = parse_run("train", ["--algo", "ppo", *argv]).config
    run = prepare_online(config, partial(build, mode="online"))
    assert run.row_counts == RowCounts("prompts", 12, 4, {TOO_LONG: 2, NOT_REACHED: 6})
