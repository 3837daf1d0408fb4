"""Updates of one rank: speed, memory beside the plan, and whether it learns."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.common import GIB
from benchmarks.gpu.card import matmul_rate
from benchmarks.gpu.models import Shape, model_folder, random_rows, shape
from benchmarks.gpu.place import Place, Row, held_gib, needs_cuda, peak_gib, script, synchronize
from benchmarks.gpu.planned import planned_gib
from rto.batching.optimizer_steps import loss_norms, plan_update, rank_share
from rto.methods.sft import SFT
from rto.models.device import peak_memory
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed, Lora
from rto.sections.training import Actor, Adam, Train
from rto.training.guard import StepOutcome
from rto.training.ranks import Rank, RankPlace
from rto.types import StepStats, TokenBatch, TrainBatch

ROWS, LENGTH, MICRO_TOKENS = 32, 1024, 8192
LORA_RANK = 64
UPDATES = 4
"""The first one warms up: it makes the optimizer's states."""
STATED = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "L40S": 362e12,
}
"""A part of a card's name -> dense bf16 FLOP/s of NVIDIA's data sheets; the first that fits."""


@dataclass(frozen=True)
class Training:
    """What is trained and how. Adapters stand for a model that is too large to train whole."""

    shape: str
    zero_stage: Literal[0, 2, 3]
    offload: bool = False

    @property
    def lora(self) -> bool:
        return self.shape == "8b"

    def config(self, place: Place) -> RunConfig:
        return RunConfig(
            actor=Actor(
                model_name_or_path=str(model_folder(place, self.shape)),
                adam=Adam(lr=1e-3 if self.lora else 1e-4),
                lr_scheduler="constant",
                gradient_checkpointing_enable=self.lora,
            ),
            train=Train(
                batch_size=ROWS, max_tokens_per_gpu=place.scaled(MICRO_TOKENS), device=place.device
            ),
            data=Data(max_len=place.scaled(LENGTH)),
            ds=DeepSpeed(
                zero_stage=self.zero_stage,
                adam_offload=self.offload,
                param_dtype=place.dtype,
                lora=Lora(rank=LORA_RANK if self.lora else 0),
            ),
        )


CASES = {
    "1b-zero0": Training("1b", 0),
    "1b-zero2": Training("1b", 2),
    "1b-zero3": Training("1b", 3),
    "1b-zero2-offload": Training("1b", 2, offload=True),
    "8b-lora-zero0": Training("8b", 0),
    "8b-lora-zero2": Training("8b", 2),
    "8b-lora-zero3": Training("8b", 3),
    "8b-lora-zero2-offload": Training("8b", 2, offload=True),
}


def measure(place: Place, case: str) -> Iterator[Row]:
    """
    Raises:
        ValueError: the loss did not fall.
    """
    training = CASES[case]
    if training.offload and not place.on_gpu:
        yield Row(case, skipped=needs_cuda(place))
        return
    rates = {"of matmul": matmul_rate(place), "mfu": stated_rate(place)}
    config, size = training.config(place), shape(place, training.shape)
    batch = random_rows([place.scaled(LENGTH)] * ROWS, vocabulary=size.vocab_size)
    _forget_peak(place)
    rank = open_rank(place, config)
    start_gib = peak_gib(place)
    _forget_peak(place)
    made = run(place, rank, batch)
    rate = flop(size, batch, frozen_base=training.lora) / made.seconds
    yield Row(
        case,
        {
            "tokens/s": int(batch.lengths.sum()) / made.seconds,
            "TFLOP/s": rate / 1e12,
            **{name: rate / most for name, most in rates.items() if most is not None},
            "optimizer step s": made.step_seconds,
            "start peak GiB": start_gib,
            "peak GiB": peak_gib(place),
            "held GiB": held_gib(place),
            **planned_gib(config),
            "host GiB": peak_memory(torch.device("cpu")) / GIB,
            "first loss": made.losses[0],
            "last loss": made.losses[-1],
        },
    )
    rank.close()
    if made.losses[-1] >= made.losses[0]:
        raise ValueError(f"the loss went from {made.losses[0]:.4g} to {made.losses[-1]:.4g}")


def open_rank(place: Place, config: RunConfig) -> Rank:
    """A policy's only rank, in this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rendezvous = probe.getsockname()
    path = str(config.actor.model_name_or_path)
    return Rank("policy", path, config, RankPlace(0, 1, rendezvous, place.device), total_steps=100)


@dataclass(frozen=True)
class Made:
    """Median seconds of the updates after the first and of their optimizer steps; all losses."""

    seconds: float
    step_seconds: float
    losses: list[float]


def run(place: Place, rank: Rank, batch: TokenBatch) -> Made:
    step_seconds = time_steps(place, rank)
    seconds: list[float] = []
    losses: list[float] = []
    for _ in range(UPDATES):
        begun = time.perf_counter()
        stats = update(rank, batch)
        synchronize(place)
        seconds.append(time.perf_counter() - begun)
        losses.append(stats.metrics["sft/loss"])
    return Made(statistics.median(seconds[1:]), statistics.median(step_seconds[1:]), losses)


def update(rank: Rank, batch: TokenBatch) -> StepStats:
    """One optimizer step on all rows, planned as a run plans it."""
    steps = plan_update(
        batch.lengths.tolist(),
        batch.group.tolist(),
        num_ranks=1,
        batch_size=len(batch),
        max_tokens=rank.config.train.max_tokens_per_gpu,
        max_sequences=None,
        seed=0,
        epoch=0,
        packs=rank.packs,
    )
    chosen, local = rank_share(steps, 0)
    return rank.update(SFT(), TrainBatch(batch.take(chosen)), local, loss_norms(batch, steps))


def time_steps(place: Place, rank: Rank) -> list[float]:
    """Grows by the seconds of each optimizer step of the rank."""
    found: list[float] = []
    engine = rank.trainer.engine
    step = engine.step

    def timed() -> StepOutcome:
        synchronize(place)
        begun = time.perf_counter()
        outcome = step()
        synchronize(place)
        found.append(time.perf_counter() - begun)
        return outcome

    vars(engine)["step"] = timed
    return found


def flop(size: Shape, batch: TokenBatch, *, frozen_base: bool) -> float:
    """Floating-point operations that an update needs: a backward is two forwards, one for the
    gradients of what a weight is multiplied with and one for those of the weight, which a frozen
    one has not (Chowdhery et al. 2022, appendix B, but for the causal half of the attention)."""
    responses = int(batch.response_mask.sum())
    return (2 if frozen_base else 3) * size.forward_flop(batch.lengths.tolist(), responses)


def stated_rate(place: Place) -> float | None:
    return rate_of(torch.cuda.get_device_name()) if place.on_gpu else None


def rate_of(card: str) -> float | None:
    """What NVIDIA states of a card of this name; None where this module does not know it."""
    return next((rate for part, rate in STATED.items() if part in card), None)


def _forget_peak(place: Place) -> None:
    if place.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    script(measure)
