"""Two gloo ranks under every ZeRO stage, with a value that is not finite in one of four places;
tests/faults/test_guards.py counts what they leave.

    python nonfinite_ranks.py DIRECTORY
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from ranks import STAGES, copied, objectives, policy_trainer, settings
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from rto.methods.sft import SFT
from rto.training.deepspeed import init_process_group
from rto.training.learner import Objective, PolicyTrainer
from rto.types import LossNorm, LossOutput, PolicyOutput, StepStats, TrainBatch

Place = Literal["loss", "gradient", "log-prob", "reward"]
PLACES: tuple[Place, ...] = ("loss", "gradient", "log-prob", "reward")
VALUES = (float("nan"), float("inf"))
MOST = 3


@dataclass(frozen=True)
class Rewarded(TrainBatch):
    rewards: Tensor
    """[B]."""


@dataclass(frozen=True)
class Poisoned(SFT):
    """Of the rows with a reward that is not 0, and in the place that it names."""

    place: Place = "loss"
    value: float = float("nan")

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        assert isinstance(batch, Rewarded)
        marked = batch.rewards != 0
        if not marked.any():
            return super().loss(output, batch, norm)
        if self.place == "log-prob":
            bad = marked.unsqueeze(-1) & batch.tokens.response_mask
            spoilt = output.logprobs.masked_fill(bad, self.value)
            return super().loss(replace(output, logprobs=spoilt), batch, norm)
        if self.place == "gradient":
            output.logprobs.register_hook(lambda gradient: gradient + self.value)
            return super().loss(output, batch, norm)
        plain = super().loss(output, batch, norm)
        weight = self.value if self.place == "loss" else batch.rewards.sum()
        return LossOutput(plain.loss + weight, plain.metrics)


def poisoned(rank: int, place: Place, value: float) -> Objective:
    """The first step, with a mark on one row of rank 1."""
    work = objectives(rank, Poisoned(place=place, value=value))[0]
    rewards = torch.zeros(len(work.batch.tokens))
    if rank == 1:
        rewards[work.steps[0][0][0]] = value
    return replace(work, batch=Rewarded(work.batch.tokens, rewards))


def row(work: Objective) -> int:
    return work.steps[0][0][0]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


def attempt(rank: int, stage: int, dtype: Any, place: Place, value: float) -> dict[str, Any]:
    """Healthy, then poisoned until the update says that it is over; what held."""
    trainer: PolicyTrainer = policy_trainer(settings(stage, dtype=dtype), max_skipped=MOST - 1)
    healthy = objectives(rank, SFT())
    trainer.update(healthy[0])
    before = copied(trainer.engine)
    work = poisoned(rank, place, value)
    first: StepStats = trainer.update(work)
    after = copied(trainer.engine)
    trainer.update(healthy[1])
    between = copied(trainer.engine)
    ending = [trainer.update(work).diverged for _ in range(MOST)]
    rows = first.skipped[0].rows if first.skipped else ()
    named = rows == ((row(work),) if rank == 1 else ()) or place == "gradient"
    return {
        "unchanged": same(before, after) and same(between, copied(trainer.engine)),
        "goes on": not same(after, between),
        "finite": all(bool(weight.isfinite().all()) for weight in between.values()),
        "named": named and bool(first.skipped),
        "counted": first.metrics["policy/skipped_steps"] == 1,
        "stops": ending == [False] * (MOST - 1) + [True],
    }


def main(rank: int, port: int, directory: Path) -> None:
    torch.set_num_threads(1)
    init_process_group(
        rank=rank, world_size=2, master_addr="127.0.0.1", master_port=port, timeout=60, device="cpu"
    )
    cells: list[tuple[int, str, Place, float]] = [
        (stage, dtype, place, value)
        for stage in STAGES
        for dtype in ("fp32", "bf16")
        for place in PLACES
        for value in VALUES
    ]
    held: list[tuple[str, dict[str, Any]]] = []
    for stage, dtype, place, value in cells:
        name = f"ZeRO {stage} {dtype}: {place} {value}"
        held.append((name, attempt(rank, stage, dtype, place, value)))
    everyones: list[Any] = [None, None]
    dist.all_gather_object(everyones, held)
    if rank == 0:
        torch.save(everyones, directory / "held.pt")


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()[1]
    spawn(main, args=(address, Path(sys.argv[1])), nprocs=2)
