"""DPO and KTO on stored pairs and labels against TRL's trainers: time and memory of a step.

Both train SmolLM2-135M in bf16 on the same rows, four at a time, up to 384 tokens each, for one
epoch. A step includes its share of the reference's log-probs: TRL computes them in every step, ours
before the first. Start-up and the first step, which warms up, cancel: seconds are the difference
between a run over all rows and one of a single step. Memory is the peak of the process that trains.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from benchmarks.common import GIB, WORK, Figure, Options, peer, script
from rto.data.feedback.read import load_feedback
from rto.sections.data import Data
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Ckpt, DeepSpeed
from rto.sections.training import Actor, Adam, RolloutSection, Train
from rto.tracking.quiet import quiet
from rto.tracking.run_folder import RunFolder

Name = Literal["dpo", "kto"]
BATCH, MAX_LEN = 4, 384
STEPS = {"dpo": 6, "kto": 8}
"""After one that warms up."""
LEARNING_RATE, BETA = 1e-6, 0.1
WORDS = (40, 220)
"""Shortest and longest response."""
VOCABULARY = """the a of in and to was old new river stone lamp winter garden letter captain harbour
slowly never often under over found lost opened closed carried silver quiet distant small"""
PROCESS = "ray::TrainerActor"


def measure(options: Options) -> list[Figure]:
    path = options.model_path()
    quiet(WORK)
    return [figure for name in ("dpo", "kto") for figure in against_trl(name, path, options)]


def against_trl(name: Name, path: Path, options: Options) -> list[Figure]:
    steps = 1 if options.quick else STEPS[name]
    num_rows = BATCH * (1 + steps)
    answers = made_up(num_rows) if options.feedback is None else read(options.feedback, num_rows)
    rows = write_rows(name, answers)
    whole, memory = through_rto(name, path, rows, steps=1 + steps)
    short, _ = through_rto(name, path, rows, steps=1)
    ours = (whole - short) / steps
    theirs, their_memory = through_trl(name, path, rows, steps=1 + steps)
    source = "made-up rows" if options.feedback is None else options.feedback.name
    on = f"{path.name} bf16, batch {BATCH}, limit {MAX_LEN}, {steps} steps, {source}"
    return [
        Figure(
            f"{name}_step_ratio", theirs / ours, f"{ours:.1f} against {theirs:.1f} s a step, {on}"
        ),
        Figure(
            f"{name}_memory_ratio",
            memory / their_memory,
            f"peak of {memory / GIB:.2f} against {their_memory / GIB:.2f} GiB, {on}",
        ),
    ]


def through_rto(name: Name, path: Path, rows: Path, *, steps: int) -> tuple[float, float]:
    """Seconds of a run, start-up included, and the training process' peak in bytes."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    config = RunConfig(
        algo=Algo(name=name),
        actor=Actor(
            model_name_or_path=str(path), adam=Adam(lr=LEARNING_RATE), lr_scheduler="constant"
        ),
        train=Train(batch_size=BATCH, max_tokens_per_gpu=1024, max_steps=steps, device="cpu"),
        rollout=RolloutSection(max_tokens_per_gpu=2048),
        data=Data(
            dataset=[str(rows)] if name == "dpo" else [],
            prompt_key="prompt",
            feedback=None if name == "dpo" else str(rows),
            apply_chat_template=True,
            max_len=MAX_LEN,
            eval_ratio=0,
            cache_dir=str(folder / "cache"),
        ),
        ds=DeepSpeed(zero_stage=0, param_dtype="bf16"),
        ckpt=Ckpt(output_dir=str(folder)),
    )
    with RunFolder(folder) as run_folder, peak_memory() as peak:
        from rto.registry import build
        from rto.runs.offline import run_offline
        from rto.runs.prepare import prepare_fit

        run = prepare_fit(config, functools.partial(build, mode="offline"))
        start = time.perf_counter()
        run_offline(run, run_folder, None)
        return time.perf_counter() - start, max(peak)


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The largest resident size so far of any trainer below this process, in bytes."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith(PROCESS[:15]) or PROCESS in process.cmdline()[0]:
                        peak[0] = max(peak[0], high_water(process.pid))
                except (psutil.NoSuchProcess, IndexError, FileNotFoundError, ProcessLookupError):
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield peak
    done.set()
    thread.join()


def high_water(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next((x for x in status.splitlines() if x.startswith("VmHWM")), "VmHWM: 0 kB")
    return float(line.split()[1]) * 1024


def through_trl(name: Name, path: Path, rows: Path, *, steps: int) -> tuple[float, float]:
    """Seconds of a step and the peak in bytes, from a process of its own."""
    settings = {
        "method": name,
        "model": str(path.absolute()),
        "rows": str(rows),
        "steps": steps,
        "batch": BATCH,
        "max_len": MAX_LEN,
        "learning_rate": LEARNING_RATE,
        "beta": BETA,
    }
    seen = peer("trl_preference", settings)
    return statistics.mean(seen["seconds"][1:]), seen["peak"]


class Answers(NamedTuple):
    prompt: str
    best: str
    worst: str


def made_up(count: int) -> list[Answers]:
    """Lengths as in chats."""
    rng = random.Random(0)
    return [
        Answers(
            f"Question {number}: tell about {text(rng, 8)}.",
            *(text(rng, rng.randint(*WORDS)) for _ in range(2)),
        )
        for number in range(count)
    ]


def read(path: Path, count: int) -> list[Answers]:
    """The first prompts with two answers or more."""
    found = load_feedback(str(path), split="train")
    several = (row for row in found if len(row.responses) > 1 and isinstance(row.prompt, str))
    return [
        Answers(str(row.prompt), row.responses[0][0], row.responses[-1][0])
        for row in itertools.islice(several, count)
    ]


def write_rows(name: Name, answers: Sequence[Answers]) -> Path:
    """Pairs (prompt, chosen, rejected), or one rated response a prompt, good and bad in turn."""
    rows = []
    for number, (prompt, best, worst) in enumerate(answers):
        if name == "dpo":
            rows.append({"prompt": prompt, "chosen": best, "rejected": worst})
        else:
            rated = {"text": worst if number % 2 else best, "reward": float(number % 2 == 0)}
            rows.append({"prompt": prompt, "responses": [rated]})
    file = WORK / f"{name}-rows.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def text(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choice(VOCABULARY.split()) for _ in range(num_words))


if __name__ == "__main__":
    script(measure)
