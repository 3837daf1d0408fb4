"""Runs of `rto` as processes of their own, on a tiny model, that faults are tried on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from rto.quickstart.data import ToyPaths, write_task
from rto.quickstart.tokenizer import build_base_model
from rto.sections.parse import known_fields

REWARD = """
def reward_func(queries, prompts, labels):
    return [float(query.split().count("the")) for query in queries]
"""
COMMON = {
    "train.device": "cpu", "ds.param_dtype": "fp32", "data.max_len": 96,
    "data.apply_chat_template": "true", "data.input_key": "prompt", "logger.tensorboard": "false",
    "train.batch_size": 4, "ray.object_store_gib": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """A model and its task on the disk."""

    root: Path
    base: Path
    data: ToyPaths

    @classmethod
    def build(cls, root: Path) -> Tiny:
        base = root / "base"
        build_base_model(base, seed=0)
        (root / "reward.py").write_text(REWARD)
        data = write_task(root / "data", seed=0, num_sft=12, num_pairs=4, num_prompts=8, num_eval=1)
        return cls(root, base, data)

    def online(self, steps: int, **changes: object) -> dict[str, object]:
        """PPO: two policy ranks, a critic, a reference, an engine without vLLM."""
        flags = {
            "algo": "ppo", "actor.model_name_or_path": self.base, "actor.num_gpus_per_node": 2,
            "actor.adam.lr": 3e-4, "critic.model_name_or_path": self.base,
            "reward.func_path": self.root / "reward.py", "data.prompt_dataset": self.data.prompts,
            "rollout.batch_size": 2, "rollout.n_samples_per_prompt": 2,
            "rollout.max_new_tokens": 8, "train.num_episodes": 10_000, "train.max_steps": steps,
            "train.self_check": "false", "vllm.engine": "transformers",
        }  # fmt: skip
        return {**COMMON, **flags, **{k.replace("__", "."): v for k, v in changes.items()}}

    def offline(self, steps: int, **changes: object) -> dict[str, object]:
        """SFT on two ranks."""
        flags = {
            "actor.model_name_or_path": self.base, "actor.num_gpus_per_node": 2,
            "actor.adam.lr": 1e-3, "data.dataset": self.data.sft, "data.output_key": "response",
            "train.max_epochs": 10_000, "train.max_steps": steps,
        }  # fmt: skip
        return {**COMMON, **flags, **{k.replace("__", "."): v for k, v in changes.items()}}


NO_RESTARTS = {"ray.max_restarts": 0} if "ray.max_restarts" in known_fields() else {}


@dataclass
class Started:
    """A command that runs. ``seen`` are its descendants so far."""

    process: subprocess.Popen[str]
    folder: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def look(self) -> None:
        """Note who has been started by now."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen.setdefault(child.pid, child)
        except psutil.NoSuchProcess:
            return

    def wait_for(self, done: Callable[[], bool], seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not done():
            self.look()
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until, "it takes too long"
            time.sleep(0.1)

    def wait_for_iterations(self, count: int) -> None:
        """In all, those of earlier starts included."""
        self.wait_for(lambda: len(metrics(self.folder)) >= count)

    def named(self, title: str) -> list[psutil.Process]:
        self.look()
        return [each for each in self.seen.values() if title in name_of(each)]

    def end(self, seconds: float = 240) -> tuple[int, str]:
        """Its exit code and the last line that it said."""
        until = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until:
            self.look()
            time.sleep(0.1)
        out, err = self.process.communicate(timeout=max(1.0, until - time.monotonic()))
        return self.process.returncode, (err.strip() or out.strip()).splitlines()[-1:][0]

    def survivors(self, seconds: float = 10) -> list[str]:
        """Who of its descendants is there so long after its end; a zombie is not."""
        until = time.monotonic() + seconds
        while (left := [p for p in self.seen.values() if is_alive(p)]) and time.monotonic() < until:
            time.sleep(0.2)
        return [name_of(each) for each in left]


def name_of(process: psutil.Process) -> str:
    try:
        return process.name() if process.is_running() else ""
    except psutil.NoSuchProcess:
        return ""


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def started(command: str, folder: Path, flags: Mapping[str, object]) -> Iterator[Started]:
    """`rto COMMAND` with a Ray of its own; whatever is left of it is killed."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "rto.cli.main", command, *words, f"--ckpt.output_dir={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = Started(process, folder)
    try:
        yield begun
    finally:
        begun.look()
        process.kill()
        process.communicate()
        begun.survivors()
        for child in filter(is_alive, begun.seen.values()):
            child.kill()


def run_to_end(command: str, folder: Path, flags: Mapping[str, object]) -> None:
    with started(command, folder, flags) as begun:
        code, said = begun.end()
        assert code == 0, said


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines, without what depends on time."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [
        {name: x for name, x in row.items() if not name.startswith(("time", "rate/"))}
        for row in rows
    ]


def about(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def state(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint, by file and place in it."""
    newest = max((folder / "checkpoints").glob("step_*"))
    found: dict[str, torch.Tensor] = {}
    for path in sorted(newest.rglob("*.pt")):
        # Our own file of a moment ago; DeepSpeed puts some classes of its own into it.
        with torch.serialization.safe_globals(_classes()):
            content = torch.load(path, weights_only=True, map_location="cpu")
        found |= dict(_tensors(content, str(path.relative_to(newest))))
    return found


def _classes() -> list[Any]:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]


def _tensors(content: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}/{key}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _tensors(value, f"{name}/{number}")


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """To the last bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def tries(usual: int) -> int:
    """How often a fault is tried: RTO_FAULT_TRIES, where that is set."""
    return int(os.environ.get("RTO_FAULT_TRIES", usual))


def moments(seed: int) -> random.Random:
    return random.Random(seed)
