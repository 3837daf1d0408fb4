"""Runs that are stopped at each step, or killed, and go on; and what that costs the others."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch
from saved_states import same, states
from tiny_tokenizers import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from conftest import Tally

HERE = Path(__file__).resolve().parent
STAGES = (0, 1, 2, 3)
STEPS = 10
BATCH = 8

pytestmark = pytest.mark.faults


def environment(*paths: Path) -> dict[str, str]:
    given = [str(HERE.parents[1]), *map(str, paths), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(given)}


@pytest.mark.timeout(900)
@pytest.mark.goal(
    "R3", "stopped behind each of 10 steps, ZeRO 0-3; and an online run, killed: the same bits"
)
def test_a_run_may_stop_behind_any_step(tally: Tally, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "resume_ranks.py"), str(tmp_path), *map(str, STAGES)],
        env=environment(HERE.parent / "training", HERE.parent / "support"),
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    cells = [(stage, step) for stage in STAGES for step in range(1, STEPS + 1)]
    held = {(i, k): all(found[i][k] for found in ranks) for i, k in cells}
    assert [cell for cell in cells if not tally.count(held[cell])] == []


def flags(folder: Path, model: Path, **changes: object) -> list[str]:
    """An online run whose reward function writes a line for each response that it is given."""
    prompts, function = folder / "prompts.jsonl", folder / "reward.py"
    prompts.write_text("".join(json.dumps({"input": f"w{i} w{i + 1}"}) + "\n" for i in range(40)))
    function.write_text(
        "def reward_func(queries, prompts, labels):\n"
        f"    with open({str(folder / 'asked')!r}, 'a') as file:\n"
        "        file.writelines(query + '\\n' for query in queries)\n"
        "    return [float(len(set(query.split()))) for query in queries]\n"
    )
    given = {
        "algo": "grpo", "actor.model_name_or_path": model, "reward.func_path": function,
        "data.prompt_dataset": prompts, "data.input_key": "input", "data.max_len": 64,
        "rollout.batch_size": BATCH // 2, "rollout.n_samples_per_prompt": 2,
        "rollout.max_new_tokens": 16, "rollout.scoring_parts": 2, "train.batch_size": BATCH,
        "train.max_steps": STEPS, "train.num_episodes": STEPS, "train.device": "cpu",
        "ds.param_dtype": "fp32", "ckpt.save_steps": 3, "logger.tensorboard": "false",
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in {**given, **changes}.items()]


def train(folder: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "rto.cli.main", "train", *words, f"--ckpt.output_dir={folder}"]
    return subprocess.Popen(
        line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def kill_after(process: subprocess.Popen[str], metrics: Path, count: int) -> None:
    """SIGKILL for the driver, with work left; what it started is ended too."""
    while len(lines(metrics)) < count:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in psutil.wait_procs(started, timeout=15)[1]:
        child.kill()
    assert count <= len(lines(metrics)) < STEPS - 1


def ended(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The last export, and what the last checkpoint has of the engines."""
    last = folder / "checkpoints" / f"step_{STEPS - 1:08d}"
    return (folder / "last" / "model.safetensors").read_bytes(), states(last)


@pytest.mark.timeout(900)
@pytest.mark.goal(
    "R3", "stopped behind each of 10 steps, ZeRO 0-3; and an online run, killed: the same bits"
)
def test_an_online_run_that_was_killed_repeats_no_reward_call(
    tally: Tally, tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Killed behind iteration 4 or a later one, it goes on from the checkpoint of iteration 2."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    finish(train(tmp_path / "whole" / "run", flags(tmp_path / "whole", tiny_model_dir)))
    words = flags(tmp_path / "killed", tiny_model_dir)
    run = tmp_path / "killed" / "run"
    kill_after(train(run, words), run / "metrics.jsonl", 5)
    asked = tmp_path / "killed" / "asked"
    before = lines(asked)
    finish(train(run, [*words, "--ckpt.load_enable=true"]))
    expected = lines(tmp_path / "whole" / "asked")
    # A call that was under way when the run was killed is made again.
    held = [
        same(ended(run), ended(tmp_path / "whole" / "run")),
        sorted(set(lines(asked))) == sorted(set(expected)),
        0 <= len(lines(asked)) - len(expected) <= BATCH // 2,
        len(before) >= 5 * BATCH,
    ]
    assert tally.count(all(held)), (held, len(before), len(lines(asked)), len(expected))


def large_model(folder: Path) -> None:
    """36 MB of weights in fp32; Adam's states have twice as much."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=288, intermediate_size=768, num_hidden_layers=9,
        num_attention_heads=6, num_key_value_heads=6, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.timeout(900)
@pytest.mark.goal(
    "R16", "journal, manifests and fsync with 100 MB of state: at most 3 % of an iteration"
)
def test_what_makes_a_run_safe_costs_little(tally: Tally, tmp_path: Path) -> None:
    """``timed_run.py`` adds up the seconds inside the journal, in whichever thread, and inside the
    commits of checkpoints, one behind every fifth iteration."""
    large_model(tmp_path / "model")
    words = flags(
        tmp_path, tmp_path / "model",
        **{"ckpt.save_steps": 5, "rollout.batch_size": 16, "train.batch_size": 32},
    )  # fmt: skip
    done = subprocess.run(
        [
            sys.executable,
            str(HERE / "timed_run.py"),
            *words,
            f"--ckpt.output_dir={tmp_path / 'run'}",
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    spent: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in lines(tmp_path / "run/metrics.jsonl")
    ]
    seconds = statistics.mean(row["time/iteration"] for row in rows)
    share = sum(spent.values()) / STEPS / seconds
    state = sum(path.stat().st_size for path in (tmp_path / "run").glob("checkpoints/*9/**/*.pt"))
    print(f"{spent}, iteration {seconds:.2f} s, share {share:.2%}, {state / 1e6:.0f} MB of state")
    assert state > 1e8
    assert tally.count(share <= 0.03), (spent, seconds)
