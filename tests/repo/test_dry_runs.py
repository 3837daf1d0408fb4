"""Every example configuration, dry-run by its command on a tiny model of its family."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_configs import CONFIGS, command_of
from tiny_tokenizers import tiny_config, tiny_tokenizer
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from rto.cli.main import main

NUM_PROMPTS = 1100
"""Of the 8B runs an iteration takes 1,024."""


@dataclass(frozen=True)
class Stand:
    """Models and data in the place of those that the configurations name."""

    policy: Path
    encoder_decoder: Path
    reward: Path
    files: Path

    def flags(self, content: dict[str, Any], command: str) -> Iterator[str]:
        policy = self.encoder_decoder if "t5" in str(content.get("actor")) else self.policy
        yield from ("--actor.model_name_or_path", str(policy))
        if command == "train":
            yield from ("--reward.model_name_or_path", str(self.reward))
            yield from self._algorithm(content)
        yield from self._data(content, command)

    def _algorithm(self, content: dict[str, Any]) -> Iterator[str]:
        """A configuration for several methods names none of them: PPO."""
        name = content.get("algo", {}).get("name", "ppo")
        yield from ("--algo", name)
        if name == "rto":
            yield from ("--dpo.model_name_or_path", str(self.policy))

    def _data(self, content: dict[str, Any], command: str) -> Iterator[str]:
        data = content["data"]
        if "feedback" in data:
            yield from ("--data.feedback", str(self._write("feedback.jsonl", _rating)))
        if command == "train" and "prompt_dataset" in data:
            key = data.get("input_key", "prompt")
            yield from ("--data.prompt_dataset", str(self._write(f"{key}.jsonl", _prompt(key))))
        elif "dataset" in data and command in ("dpo", "reward"):
            name = "texts.jsonl" if "prompt_key" in data else "conversations.jsonl"
            yield from ("--data.dataset", str(self._write(name, _pair(data))))
            yield from ("--data.dataset_split", "train")
        elif "dataset" in data:
            yield from ("--data.dataset", str(self._write("sft.jsonl", _demonstration(data))))
        else:
            yield from ("--data.feedback", str(self._write("feedback.jsonl", _rating)))

    def _write(self, name: str, row: Callable[[int], dict[str, Any]]) -> Path:
        path = self.files / name
        if not path.exists():
            path.write_text("".join(f"{json.dumps(row(i))}\n" for i in range(NUM_PROMPTS)))
        return path


def _words(number: int) -> str:
    return f"w{number % 50} w{number // 50}"


def _prompt(key: str) -> Callable[[int], dict[str, Any]]:
    asks_as_chat = key.endswith("messages")
    return lambda i: {key: [{"role": "user", "content": _words(i)}] if asks_as_chat else _words(i)}


def _pair(data: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """Texts where the configuration names the column of the prompt, else conversations."""
    if "prompt_key" in data:
        names = [data["prompt_key"], "chosen", "rejected"]
        return lambda i: dict(zip(names, (_words(i), "w1 w2", f"w3 w{i % 50}"), strict=True))
    return lambda i: {"chosen": _talk(i, "w1 w2"), "rejected": _talk(i, f"w3 w{i % 50}")}


def _talk(number: int, answer: str) -> list[dict[str, str]]:
    roles = ("user", _words(number)), ("assistant", answer)
    return [{"role": role, "content": content} for role, content in roles]


def _demonstration(data: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    names = [data.get("input_key", "prompt"), data.get("output_key", "response")]
    return lambda i: dict(zip(names, (_words(i), "w1 w2"), strict=True))


def _rating(i: int) -> dict[str, Any]:
    """Four responses to each prompt."""
    return {"prompt": _words(i // 4), "response": f"w1 w{i % 4}", "reward": float(i % 4)}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory, tiny_t5_dir: Path) -> Stand:
    folder = tmp_path_factory.mktemp("stand")
    config = tiny_config()
    config.max_position_embeddings = 4096
    LlamaForCausalLM(config).save_pretrained(folder / "policy")
    config.num_labels = 1
    config.update({"mean": 0.5, "std": 2.0})
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    for name in ("policy", "reward"):
        tiny_tokenizer().save_pretrained(folder / name)
    return Stand(folder / "policy", tiny_t5_dir, folder / "reward", folder)


def commands_of(path: Path) -> tuple[str, ...]:
    """`laptop.yaml` is for all that README shows."""
    everything = ("sft", "reward", "dpo", "train", "fit")
    return everything if path.stem == "laptop" else (command_of(path),)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_dry_runs(
    path: Path,
    stand: Stand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"data": {}, **yaml.safe_load(path.read_text(encoding="utf-8"))}
    for command in commands_of(path):
        argv = [command, "--config", str(path), *stand.flags(content, command)]
        if command == "fit" and "algo" not in content:
            argv += ["--algo", "rpo"]
        ranks = content.get("actor", {}).get("num_gpus_per_node", 1)
        argv += ["--plan.gpus", "8xA100-80"] if ranks == 8 else []
        assert main([*argv, "--data.cache_dir", str(tmp_path / "cache"), "--dry_run"]) == 0
        assert "disk: about" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
