"""Offline RPO with an encoder-decoder model: rows per second, end to end, against the released way.

Ours is a whole run on Ray and DeepSpeed with one rank, start-up, the reference's pass and the
export included. Theirs (``released_rpo``) gets its models and rows in memory and starts when they
are there. Both are fp32 with 32 rows an update, a model of the published tiny T5's shape.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from benchmarks.common import ROOT, WORK, Figure, Options, script
from benchmarks.preference import text
from benchmarks.released_rpo import Rated, seconds_of_an_epoch
from rpo_ext.settings import RPOSettings
from rto.data.feedback.read import load_feedback
from rto.sections.data import Data
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig
from rto.sections.runtime import Ckpt, DeepSpeed
from rto.sections.training import Actor, Adam, RolloutSection, Train
from rto.tracking.quiet import quiet
from rto.tracking.run_folder import RunFolder

TAU, LEARNING_RATE = 5.0, 1e-4
MAX_LEN = 512
"""Of a prompt and of a response."""
PER_PROMPT, PROMPTS_PER_STEP = 8, 4
THEIR_BATCH, THEIR_ACCUMULATION = 16, 2
SHAPE: dict[str, Any] = {
    "vocab_size": 32128, "d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 4,
    "initializer_factor": 0.1,
}  # fmt: skip
PIECES = 8000
"""Of the tokenizer. Learned from the rows, they cut them about as finely as the 49,152 of SmolLM2,
made for all text, do: 133 and 127 tokens a row of AlpacaEval's answers; 2,000 give 185."""
WORDS = (5, 140)
"""Shortest and longest made-up response."""


def measure(options: Options) -> list[Figure]:
    quiet(WORK)
    prompts = 4 if options.quick else 256
    rows = read(options.feedback, prompts) if options.feedback else made_up(prompts)
    source = options.feedback.name if options.feedback else "made-up rows"
    file = write(rows)
    model = small_t5(file, options.quick)
    ours = len(rows) / through_rto(model, file)
    part = rows[: THEIR_BATCH * THEIR_ACCUMULATION]
    theirs = len(part) / through_released(model, part, MAX_LEN // 8 if options.quick else MAX_LEN)
    tokens = real_tokens(model, rows)
    size = sum(p.numel() for p in T5ForConditionalGeneration.from_pretrained(model).parameters())
    return [
        Figure(
            "rpo_t5_rows_ratio",
            ours / theirs,
            f"{ours:.2f} rows/s over {len(rows)} against {theirs:.2f} over {len(part)}, "
            f"T5 of {size / 1e6:.1f}M, {source}, {tokens:.0f} tokens a row",
        )
    ]


def through_rto(model: Path, file: Path) -> float:
    """Seconds of a whole run of one epoch."""
    folder = WORK / "rpo-t5"
    shutil.rmtree(folder, ignore_errors=True)
    config = RunConfig(
        algo=Algo("rpo", RPOSettings(tau=TAU, estimator="ref", reduction="mean")),
        actor=Actor(model_name_or_path=str(model), adam=Adam(lr=LEARNING_RATE)),
        train=Train(batch_size=PROMPTS_PER_STEP, max_tokens_per_gpu=2048, device="cpu"),
        rollout=RolloutSection(max_tokens_per_gpu=8192),
        data=Data(
            feedback=str(file), max_len=2 * MAX_LEN, eval_ratio=0, cache_dir=str(folder / "cache")
        ),
        ds=DeepSpeed(zero_stage=0, param_dtype="fp32"),
        ckpt=Ckpt(output_dir=str(folder)),
    )
    start = time.perf_counter()
    with RunFolder(folder) as run_folder:
        from rto.registry import build
        from rto.runs.offline import run_offline
        from rto.runs.prepare import prepare_fit

        run = prepare_fit(config, functools.partial(build, mode="offline"))
        run_offline(run, run_folder, None)
    return time.perf_counter() - start


def through_released(path: Path, rows: list[Rated], max_len: int) -> float:
    tokenizer = AutoTokenizer.from_pretrained(path)
    policy, reference = (T5ForConditionalGeneration.from_pretrained(path) for _ in range(2))
    train = functools.partial(
        seconds_of_an_epoch, policy, reference, tokenizer, tau=TAU, max_len=max_len,
        accumulation=THEIR_ACCUMULATION, lr=LEARNING_RATE,
    )  # fmt: skip
    train(rows[:2], batch=1)
    return train(rows, batch=THEIR_BATCH)


def read(path: Path, num_prompts: int) -> list[Rated]:
    found = itertools.islice(load_feedback(str(path), split="train"), num_prompts)
    return [Rated(str(row.prompt), *rated) for row in found for rated in row.responses]


def write(rows: list[Rated]) -> Path:
    """In the authors' flat layout."""
    file = WORK / "rpo-t5-rows.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    flat = [{"instruction": x.prompt, "response": x.response, "reward": x.reward} for x in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in flat), encoding="utf-8")
    return file


def made_up(num_prompts: int) -> list[Rated]:
    rng = random.Random(0)
    return [
        Rated(f"Question {n}: tell about {about}.", text(rng, rng.randint(*WORDS)), rng.random())
        for n in range(num_prompts)
        for about in [text(rng, 20)]
        for _ in range(PER_PROMPT)
    ]


def small_t5(file: Path, quick: bool) -> Path:
    """A random model; its tokenizer learns from the rows."""
    folder = WORK / ("t5-quick" if quick else "t5")
    maker = ROOT / "examples" / "tools" / "tiny_t5.py"
    command = [sys.executable, str(maker), str(folder), str(file), "--vocabulary", str(PIECES)]
    subprocess.run(command, check=True)
    if not quick:
        config = T5Config.from_pretrained(folder, **SHAPE)
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def real_tokens(model: Path, rows: list[Rated]) -> float:
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [x.prompt for x in rows] + [x.response for x in rows]
    return sum(len(ids) for ids in tokenizer(texts)["input_ids"]) / len(rows)


if __name__ == "__main__":
    script(measure)
