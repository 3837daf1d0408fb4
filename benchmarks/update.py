"""Update tokens/s of one rank against a hand-written PyTorch loop on the same rows.

Ours is what a policy rank runs: planned micro-batches, chunked log-probs, DeepSpeed (ZeRO 0, bf16
with fp32 master weights). The bare loop is as lean as it gets: rows of equal length share a
forward, so there is no padding, the head sees response positions only, and AdamW steps on the
bf16 weights themselves. Both count real tokens and must find the same loss.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from benchmarks.common import Figure, Options, interleaved, script
from rto.batching.optimizer_steps import loss_norms, plan_update, rank_share
from rto.methods.sft import SFT
from rto.sections.run_config import RunConfig
from rto.sections.runtime import DeepSpeed
from rto.sections.training import Actor, Adam, Train
from rto.training.ranks import Rank, RankPlace
from rto.types import TokenBatch, TrainBatch, pad

ROUNDS = 5
PROMPT, RESPONSES, ROWS_EACH = 24, tuple(range(24, 104, 8)), 3
ADAM = Adam(lr=1e-6)
LOSS_TOLERANCE = 0.02


def measure(options: Options) -> list[Figure]:
    torch.set_num_threads(os.cpu_count() or 1)
    path = options.model_path()
    each, rounds = (1, 1) if options.quick else (ROWS_EACH, ROUNDS)
    batch = rows(each, vocabulary=256 if not options.quick else 50)
    ours, bare = Ours.build(path, batch), Bare.build(path, batch)
    tokens = int(batch.lengths.sum())

    def rate(side: Ours | Bare) -> float:
        start = time.perf_counter()
        side.step()
        return tokens / (time.perf_counter() - start)

    check_same_loss(ours.step(), bare.step())
    ratio, mine, theirs = interleaved(lambda: rate(ours), lambda: rate(bare), rounds=rounds)
    detail = (
        f"{mine:.0f} against {theirs:.0f} tokens/s, {len(batch)} rows of {tokens} tokens, "
        f"{path.name} bf16, {rounds} rounds in turn"
    )
    return [Figure("update_tokens_ratio", ratio, detail)]


@dataclass(frozen=True)
class Ours:
    rank: Rank
    batch: TokenBatch

    @classmethod
    def build(cls, path: Path, batch: TokenBatch) -> Ours:
        config = RunConfig(
            actor=Actor(model_name_or_path=str(path), adam=ADAM, lr_scheduler="constant"),
            train=Train(max_tokens_per_gpu=1024, device="cpu"),
            ds=DeepSpeed(zero_stage=0, param_dtype="bf16"),
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            place = RankPlace(0, 1, probe.getsockname(), "cpu")
        return cls(Rank("policy", str(path), config, place, total_steps=100), batch)

    def step(self) -> float:
        steps = plan_update(
            self.batch.lengths.tolist(),
            self.batch.group.tolist(),
            num_ranks=1,
            batch_size=len(self.batch),
            max_tokens=self.rank.config.train.max_tokens_per_gpu,
            max_sequences=None,
            seed=0,
            epoch=0,
            packs=self.rank.packs,
        )
        chosen, local = rank_share(steps, 0)
        norms = loss_norms(self.batch, steps)
        stats = self.rank.update(SFT(), TrainBatch(self.batch.take(chosen)), local, norms)
        return next(value for name, value in stats.metrics.items() if name.endswith("/loss"))


@dataclass(frozen=True)
class Bare:
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batch: TokenBatch

    @classmethod
    def build(cls, path: Path, batch: TokenBatch) -> Bare:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=ADAM.lr, betas=ADAM.betas, eps=ADAM.eps, weight_decay=0.0,
            fused=True,
        )  # fmt: skip
        return cls(model, optimizer, batch)

    def step(self) -> float:
        total = 0.0
        count = int(self.batch.response_mask.sum())
        for ids, responses in self.micro_batches():
            logits = self.model(ids, logits_to_keep=responses.shape[1] + 1).logits[:, :-1]
            loss = cross_entropy(logits.float().flatten(0, 1), responses.flatten(), reduction="sum")
            (loss / count).backward()
            total += float(loss.detach()) / count
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def micro_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids [b, P + T] and responses [b, T] of the rows of each length."""
        lengths = self.batch.response_mask.sum(-1)
        for length in lengths.unique().tolist():
            same = self.batch.take((lengths == length).nonzero().flatten()).trim()
            yield torch.cat([same.prompt_ids, same.response_ids], dim=1), same.response_ids


def rows(each: int, *, vocabulary: int) -> TokenBatch:
    """``each`` random rows of every length in RESPONSES, behind prompts of one length."""
    torch.manual_seed(0)
    lengths = [length for length in RESPONSES for _ in range(each)]
    prompts = torch.randint(6, vocabulary, (len(lengths), PROMPT))
    answers = [torch.randint(6, vocabulary, (length,)).tolist() for length in lengths]
    response_ids, response_mask = pad(answers, 0, left=False)
    return TokenBatch(
        prompt_ids=prompts,
        prompt_mask=torch.ones_like(prompts, dtype=torch.bool),
        response_ids=response_ids,
        response_mask=response_mask,
        sampler_logprobs=torch.zeros(response_ids.shape),
        finished=torch.ones(len(lengths), dtype=torch.bool),
        group=torch.arange(len(lengths)),
    )


def check_same_loss(ours: float, bare: float) -> None:
    if not abs(ours - bare) <= LOSS_TOLERANCE * abs(bare):
        raise RuntimeError(f"the two loops compute other losses: ours {ours}, bare {bare}")


if __name__ == "__main__":
    script(measure)
