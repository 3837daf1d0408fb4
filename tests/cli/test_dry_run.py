"""``--dry_run``: every shipped configuration gets its plan, on tiny models in place of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from rto.cli.main import main
from rto.registry import build
from rto.runs.prepare import prepare_fit, prepare_reward
from rto.sections.data import Data
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig
from rto.sections.training import Actor, RolloutSection, Train

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "configs"
SIZES_ALONE = "laptop"
"""Goes with any command; it names no model and no data."""
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != SIZES_ALONE)
COMMANDS = {"sft": "sft", "dpo": "dpo", "reward": "reward", "compare": "train"}
FEEDBACK = [
    {"prompt": f"w{i}", "response": f"w{i + 1} w{j}", "reward": float(j)}
    for i in range(40)
    for j in range(4)
]
LOCATED = ("dataset", "prompt_dataset", "eval_dataset", "feedback", "input_key", "output_key",
           "prompt_key", "chosen_key", "rejected_key", "label_key")  # fmt: skip


def command_of(config: Path) -> str:
    """`rto sft`, `dpo`, `reward` and `fit` have it in the file's name; the others are online."""
    words = config.stem.split("-")
    named = next((COMMANDS[word] for word in words[1:] if word in COMMANDS), None)
    return named or ("fit" if "fit" in words else "train")


@pytest.fixture(scope="module")
def models(
    tiny_model_dir: Path,
    tiny_reward_dir: Path,
    tiny_t5_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Tiny models that take the rows of 2,048 tokens that the configurations speak of."""
    root = tmp_path_factory.mktemp("models")
    for name, source in (
        ("policy", tiny_model_dir), ("reward", tiny_reward_dir), ("t5", tiny_t5_dir)
    ):  # fmt: skip
        shutil.copytree(source, root / name)
        file = root / name / "config.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": 4096})
        )
    return {name: str(root / name) for name in ("policy", "reward", "t5")}


@pytest.fixture
def stand_in(models: dict[str, str], tmp_path: Path) -> Callable[[Path], str]:
    """A configuration with tiny models and a feedback file in place of what it names."""

    def write(config: Path) -> str:
        fields: dict[str, Any] = yaml.safe_load(config.read_text())
        policy = models["t5" if "t5" in config.stem else "policy"]
        for section in ("actor", "dpo", "critic", "ref"):
            if fields.get(section, {}).get("model_name_or_path"):
                fields[section]["model_name_or_path"] = policy
        if fields.get("reward", {}).get("model_name_or_path"):
            fields["reward"]["model_name_or_path"] = [models["reward"]]
        if command_of(config) == "train" and "reward" not in fields:
            fields["reward"] = {"model_name_or_path": [models["reward"]]}
        rows = tmp_path / "feedback.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in FEEDBACK))
        data = {k: v for k, v in fields.get("data", {}).items() if k not in LOCATED}
        fields["data"] = {**data, "feedback": str(rows), "cache_dir": str(tmp_path / "cache")}
        fields.setdefault("rollout", {})["batch_size"] = 32
        fields.setdefault("train", {})["batch_size"] = 32
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
        return str(tmp_path / "config.yaml")

    return write


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_gets_a_plan(
    config: Path, stand_in: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--algo", "ppo"] if config.stem == "quickstart-compare" else []
    # So many actors would not fit the memory of the machine that the tests run on.
    more += ["--plan.gpus", "8xA100-80"] if "num_engines: 8" in config.read_text() else []
    assert main([command_of(config), "--config", stand_in(config), *more, "--dry_run"]) == 0
    assert "M parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("colocate", "given", "said"),
    [(True, None, "40% of its GPUs"), (False, None, "90% of its GPUs"), (True, 0.3, "30% of its")],
)
def test_the_plan_tells_what_an_engine_takes_of_its_gpu(
    colocate: bool, given: float | None, said: str, capsys: pytest.CaptureFixture[str],
    tiny_model_dir: Path, tmp_path: Path,
) -> None:  # fmt: skip
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"input": f"w{i}"}) + "\n" for i in range(8)))
    share = [] if given is None else ["--vllm.gpu_memory_utilization", str(given)]
    assert main([
        "train", "--algo", "ppo", "--actor.model_name_or_path", str(tiny_model_dir),
        "--reward.func_path", str(FOLDER.parents[1] / "rto/quickstart/reward_func.py"),
        "--data.prompt_dataset", str(rows),
        "--data.max_len", "64", "--rollout.max_new_tokens", "8", "--rollout.batch_size", "8",
        "--train.batch_size", "8", "--train.colocate_all", str(colocate).lower(),
        "--plan.gpus", "4xA100-80", "--vllm.engine", "vllm", *share, "--dry_run",
    ]) == 0  # fmt: skip
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("attention", "said"), [("eager", True), ("sdpa", False)])
def test_attention_that_pads_is_told(
    attention: str, said: bool, capsys: pytest.CaptureFixture[str],
    tiny_model_dir: Path, tmp_path: Path,
) -> None:  # fmt: skip
    rows = tmp_path / "feedback.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in FEEDBACK))
    assert main([
        "sft", "--actor.model_name_or_path", str(tiny_model_dir), "--data.feedback", str(rows),
        "--data.max_len", "64", "--train.batch_size", "8", "--train.device", "cpu",
        "--ds.attn_implementation", attention, "--dry_run",
    ]) == 0  # fmt: skip
    line = f"ds.attn_implementation {attention}: rows are padded; with sdpa"
    assert (line in capsys.readouterr().out) is said


def test_no_offline_figure_is_at_the_temperature_of_sampling(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Losses, cached references and held-out figures are computed from the run's own config."""
    rows = tmp_path / "feedback.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in FEEDBACK))
    config = RunConfig(
        actor=Actor(model_name_or_path=str(tiny_model_dir)),
        data=Data(feedback=str(rows), max_len=64, cache_dir=str(tmp_path)),
        rollout=RolloutSection(temperature=0.5),
        train=Train(batch_size=8),
    )
    for method in ("sft", "dpo", "kto"):
        run = prepare_fit(replace(config, algo=Algo(method)), partial(build, mode="offline"))
        assert run.config.rollout.temperature == 1.0
    assert prepare_reward(config).config.rollout.temperature == 1.0
