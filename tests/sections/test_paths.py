from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from rto.sections.data import Data
from rto.sections.parse import known_fields, parse_run
from rto.sections.paths import FILES, FILES_OR_HUB_IDS, absolute_path, absolute_paths
from rto.sections.run_config import RunConfig
from rto.sections.training import Actor, Reward

NO_PATHS = {
    "ckpt.best_metric_key",
    "ckpt.mirror",
    "data.chosen_key",
    "data.columns",
    "data.config_name",
    "plan.gpus",
    "plan.nodes",
    "data.dataset_split",
    "data.input_key",
    "data.input_template",
    "data.label_key",
    "data.layout",
    "data.output_key",
    "data.prompt_key",
    "data.prompt_split",
    "data.rejected_key",
    "ds.attn_implementation",
    "ds.lora.target_modules",
    "algo.name",
    "algo.reward_aware.distance",
    "ckpt.allow",
    "generate.prompt",
    "generate.prompt_key",
    "generate.stop",
    "logger.wandb.group",
    "logger.wandb.project",
    "logger.wandb.run_name",
    "ray.address",
    "reward.remote_token_env",
    "reward.remote_url",
}


def test_each_setting_of_text_is_a_path_or_is_none() -> None:
    """A new one has to be put on one of the lists."""
    texts = {
        n
        for n, hint in known_fields().items()
        if hint is str or {str, list[str]} & {*_options(hint)}
    }
    assert texts - NO_PATHS == FILES | FILES_OR_HUB_IDS
    assert not NO_PATHS & (FILES | FILES_OR_HUB_IDS)


def _options(hint: object) -> tuple[object, ...]:
    return (hint, *get_args(hint))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    (tmp_path / "a,b [1].jsonl").write_text("{}")
    return tmp_path


def test_a_path_is_absolute_and_a_name_of_the_hub_stays(folder: Path) -> None:
    here = str(folder)
    seen = {
        "model": f"{here}/model",
        "./gone/x": f"{here}/gone/x",
        "../gone": os.path.dirname(here) + "/gone",
        "~/m": f"{here}/home/m",
        "/m/../n": "/n",
        "org/name": "org/name",
        "gone.jsonl": "gone.jsonl",
        "hf://datasets/x": "hf://datasets/x",
    }
    assert {text: absolute_path(text) for text in seen} == seen
    assert absolute_path("runs/x", hub=False) == f"{here}/runs/x"


def test_a_link_is_not_followed(folder: Path) -> None:
    (folder / "newest").symlink_to(folder / "model")
    assert absolute_path("newest") == f"{folder}/newest"


def test_all_paths_of_a_configuration(folder: Path) -> None:
    config = RunConfig(
        actor=Actor(model_name_or_path="model"),
        data=Data(dataset=["a,b [1].jsonl", "org/name"], cache_dir="cache"),
        reward=Reward(model_name_or_path=["model", "org/name"], func_path="f.py"),
    )
    found = absolute_paths(config)
    assert found.actor.model_name_or_path == f"{folder}/model"
    assert found.data.dataset == [f"{folder}/a,b [1].jsonl", "org/name"]
    assert found.data.cache_dir == f"{folder}/cache"
    assert found.reward.model_name_or_path == [f"{folder}/model", "org/name"]
    assert found.reward.func_path == f"{folder}/f.py"
    assert found.data.feedback is None
    assert found.critic == config.critic
    assert absolute_paths(found) == found


def test_a_command_has_absolute_paths(folder: Path) -> None:
    (folder / "c.yaml").write_text("data: {feedback: ~/f.jsonl}\nckpt: {output_dir: runs/x}\n")
    config = parse_run("train", ["--config", "c.yaml", "--reward.func_path", "f.py"]).config
    assert config.data.feedback == f"{folder}/home/f.jsonl"
    assert config.ckpt.output_dir == f"{folder}/runs/x"
    assert config.reward.func_path == f"{folder}/f.py"


def test_a_comma_is_part_of_the_name_of_a_file_that_is_there(folder: Path) -> None:
    for name in ("x.jsonl", "one,two.jsonl"):
        (folder / name).write_text("{}")
    given = ["x.jsonl,one,two.jsonl,org/name", "a,b [1].jsonl"]
    found = parse_run("sft", ["--data.dataset", *given]).config.data.dataset
    names = ("x.jsonl", "one,two.jsonl", "org/name", "a,b [1].jsonl")
    assert found == [absolute_path(name) for name in names]
