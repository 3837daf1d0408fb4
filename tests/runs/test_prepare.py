"""What is refused before an actor starts."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from rto.errors import UserError
from rto.registry import build
from rto.runs.online import OnlineRun
from rto.runs.prepare import prepare_online
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Planned
from rto.sections.training import Actor, Reward, RolloutSection, Train


def prepared(model: Path, folder: Path, *, colocate: bool, sleep: bool) -> OnlineRun:
    """A run that is one update ahead of its responses, on four GPUs that are somewhere else."""
    rows = folder / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"input": f"w{i}"}) + "\n" for i in range(8)))
    function = folder / "length.py"
    function.write_text(
        "def reward_func(queries, prompts, labels):\n    return [0.0 for _ in queries]\n"
    )
    config = RunConfig(
        actor=Actor(model_name_or_path=str(model)),
        reward=Reward(func_path=str(function)),
        data=Data(prompt_dataset=[str(rows)], max_len=64),
        rollout=RolloutSection(batch_size=8, max_new_tokens=8),
        train=Train(batch_size=8, async_lag=1, colocate_all=colocate),
        plan=Planned(gpus="4xA100-80"),
        vllm=VLLM(engine="vllm", enable_sleep=sleep),
    )
    return prepare_online(config, partial(build, mode="online"))


def test_engines_that_take_turns_with_ranks_cannot_sample_meanwhile(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"train\.async_lag is 1: .*train\.colocate_all false"):
        prepared(tiny_model_dir, tmp_path, colocate=True, sleep=True)


@pytest.mark.parametrize(("colocate", "sleep"), [(False, True), (True, False)])
def test_engines_that_do_not_can(
    colocate: bool, sleep: bool, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run = prepared(tiny_model_dir, tmp_path, colocate=colocate, sleep=sleep)
    assert run.config.train.async_lag == 1
