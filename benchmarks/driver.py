"""Seconds that an online iteration spends in the driver, between what its actors do.

    python -m benchmarks.driver [--size tiny|small/4|small|large/4|large ...]

Generator, scorer and learner are fakes that have their answers ready; the rest is the driver's own
code: collate, targets, observe, the plan of the update, shards, the log and the rollout file. The
file is written beside the loop: ``write`` is what the loop waits for, ``file`` how long it takes
until the file is there. Each size runs in a process of its own; ``large`` needs minutes and 4 GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console

from benchmarks.common import ENVIRONMENT, GIB, ROOT, Figure, Options
from benchmarks.common import script as figures_of
from rto.batching.optimizer_steps import OptimizerStep, loss_norms, plan_update, rank_share
from rto.batching.shards import shard_rows, unshard
from rto.methods.ppo import PPO
from rto.methods.rto import DpoTokenReward
from rto.observe import observe
from rto.runs.large_pages import use_large_pages
from rto.tracking.console import figure as short
from rto.tracking.console import table
from rto.tracking.metrics import RunTracker
from rto.tracking.run_folder import RunFolder
from rto.types import (
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    TokenBatch,
    TrainBatch,
    collate,
    logprob_array,
    token_array,
)

NAME = "driver_seconds"
SIZES = {
    "tiny": (16, 32),
    "small/4": (256, 1024),
    "small": (1024, 1024),
    "large/4": (2048, 4096),
    "large": (8192, 4096),
}
"""Responses, and the most tokens that one has."""
PARTS = ("collate", "shard", "targets", "plan", "observe", "write", "log")
"""What the loop waits for."""
PER_PROMPT = 4
RANKS = 2
PROMPT_TOKENS = 64
VOCABULARY = 150_000

Result = TypeVar("Result")


@dataclass
class Stopwatch:
    """Seconds by part."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timed(self, name: str, call: Callable[[], Result]) -> Result:
        with self.part(name):
            return call()


def measure(options: Options) -> list[Figure]:
    size = "tiny" if options.quick else "small"
    seen = of_size(size)
    responses, length = SIZES[size]
    detail = f"{responses} responses of up to {length} tokens: {told(seen)}"
    return [Figure(NAME, total(seen), detail)]


def of_size(size: str) -> dict[str, float]:
    """What a process of its own saw: seconds by part, and GiB."""
    command = [sys.executable, "-m", "benchmarks.driver", "--one", size]
    shown = subprocess.check_output(command, cwd=ROOT, env=ENVIRONMENT, text=True)
    return json.loads(shown.splitlines()[-1])


def total(seen: Mapping[str, float]) -> float:
    return sum(seen[name] for name in PARTS)


def told(seen: Mapping[str, float]) -> str:
    parts = ", ".join(f"{name} {seen[name]:.2f}" for name in PARTS)
    return f"{parts} s; peak {seen['peak GiB']:.1f} GiB, {seen['given GiB']:.1f} of it given"


def iteration(responses: int, length: int) -> dict[str, float]:
    """One iteration of RTO with two ranks per model."""
    use_large_pages()
    rollouts = draw(responses, length)
    given, clock = peak(), Stopwatch()
    tokens = clock.timed("collate", lambda: collate(rollouts, pad_token_id=0))
    clock.timed("shard", lambda: score_shards(tokens))
    scored = scores(tokens)
    method = PPO(token_rewards=(DpoTokenReward(),))
    batch, metrics = clock.timed("targets", lambda: method.targets(scored))
    steps = clock.timed("plan", lambda: plan(tokens))
    clock.timed("shard", lambda: update_shards(batch, steps))
    observed = clock.timed("observe", lambda: observe(scored))
    with tempfile.TemporaryDirectory() as place, RunFolder(f"{place}/run") as folder:
        tracker = RunTracker(folder)
        with clock.part("file"):
            clock.timed("write", lambda: tracker.rollouts(0, rollouts, scored))
            clock.timed("log", lambda: tracker.log(0, {**observed, **metrics}))
            tracker.close()
        written = sum(path.stat().st_size for path in folder.rollouts.iterdir())
    size = {"peak GiB": peak(), "given GiB": given, "file MiB": written / 2**20}
    return {**clock.seconds, **size}


def peak() -> float:
    """GiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def draw(responses: int, length: int) -> list[Rollout]:
    """Rollouts as engines answer: ``length`` tokens at most, half as many on average."""
    random = np.random.default_rng(0)
    ids = random.integers(1, VOCABULARY, (responses // PER_PROMPT, PROMPT_TOKENS)).tolist()
    prompts = [Prompt(n, tuple(row), f"prompt {n} " * 16) for n, row in enumerate(ids)]
    drawn: list[Rollout] = []
    for row in range(responses):
        number, sample = divmod(row, PER_PROMPT)
        count = length if row == 0 else int(random.integers(1, length + 1))
        tokens = random.integers(1, VOCABULARY, count).tolist()
        # 4 letters a token, as English has.
        text = " ".join(map(str, tokens))[: 4 * count]
        logprobs = logprob_array(-random.exponential(1.0, count))
        drawn.append(
            Rollout(
                prompts[number], sample, token_array(tokens), logprobs, text, count < length, 0, row
            )
        )
    return drawn


def scores(tokens: TokenBatch) -> ScoredBatch:
    """What the models of RTO say of each token: near the sampler, as in training."""
    torch.manual_seed(0)
    sampler = tokens.sampler_logprobs

    def near() -> torch.Tensor:
        return sampler + 0.05 * torch.randn_like(sampler)

    roles = (Role.POLICY, Role.REFERENCE, Role.DPO, Role.CRITIC)
    rewards = {Role.REWARD: torch.randn(len(tokens))}
    return ScoredBatch(tokens, {**{role: near() for role in roles}, **rewards})


def score_shards(tokens: TokenBatch) -> None:
    """The requests of policy, critic and the frozen models, and their answers put together."""
    for _ in range(3):
        shards = shard_rows(tokens.lengths.tolist(), RANKS, tokens.group.tolist())
        parts = [tokens.take(shard).trim() for shard in shards]
        unshard([part.sampler_logprobs for part in parts], shards)


def plan(tokens: TokenBatch) -> list[OptimizerStep]:
    """The optimizer steps of the policy and of the critic."""
    steps: list[OptimizerStep] = []
    for _ in range(2):
        steps = plan_update(
            tokens.lengths.tolist(),
            tokens.group.tolist(),
            num_ranks=RANKS,
            batch_size=128,
            max_tokens=16_384,
            max_sequences=None,
            seed=0,
            epoch=0,
            whole_groups=False,
        )
        loss_norms(tokens, steps)
    return steps


def update_shards(batch: TrainBatch, steps: Sequence[OptimizerStep]) -> None:
    for _ in range(2):
        shares = [rank_share(steps, rank) for rank in range(RANKS)]
        _ = [batch.take(rows) for rows, _ in shares]


def show(sizes: Sequence[str]) -> None:
    """A line per size."""
    rows = []
    for size in sizes:
        seen = of_size(size)
        shown = {name: short(value) for name, value in seen.items()}
        responses, length = SIZES[size]
        rows.append({"size": f"{responses} x {length}", "loop": short(total(seen)), **shown})
    console = Console()
    console.width = max(console.width, 160)
    console.print(table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--one", choices=SIZES)
    parser.add_argument("--size", choices=SIZES, nargs="+")
    arguments, _ = parser.parse_known_args()
    if arguments.one is not None:
        print(json.dumps(iteration(*SIZES[arguments.one])))
    elif arguments.size is not None:
        show(arguments.size)
    else:
        figures_of(measure)


if __name__ == "__main__":
    main()
