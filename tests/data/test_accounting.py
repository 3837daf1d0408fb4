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


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("sft", []),
        ("dpo", []),
        ("fit", ["--algo", "rpo"]),
        ("train", [*("--algo", "grpo", "--rollout.n_samples_per_prompt", "2")]),
    ],
)
def test_cut_prompts(
    command: str,
    more: list[str],
    tiny_model_dir: Path,
    tiny_reward_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two of five prompts are longer than three tokens: all are used, two are said to be cut."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": f"w{i}" + " w0" * (4 if i < 2 else 2), "response": f"w{j}", "reward": j}
        for i in range(5)
        for j in (1, 2)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    argv = ["--actor.model_name_or_path", str(tiny_model_dir), "--data.feedback", str(path)]
    argv += ["--data.max_prompt_len", "3", "--data.max_len", "16", "--train.device", "cpu"]
    argv += ["--data.on_long_prompt", "truncate", "--train.batch_size", "2", *more]
    if command == "train":
        argv += ["--rollout.batch_size", "1", "--reward.model_name_or_path", str(tiny_reward_dir)]
    config = parse_run(command, argv).config
    prepare = prepare_online if command == "train" else prepare_fit
    run = prepare(config, partial(build, mode="online" if command == "train" else "offline"))
    counts = run.row_counts
    assert (counts.read, counts.truncated, counts.filtered.get(TOO_LONG)) == (5, 2, 0)
    assert f"2 {counts.unit} have a prompt that is too long and was cut" in capsys.readouterr().out


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
