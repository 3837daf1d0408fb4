"""Two gloo ranks that train a tiny Llama under every ZeRO stage; test_deepspeed_ranks.py reads what
they leave.

    python ranks.py DIRECTORY

writes ``reference.pt`` (plain torch, one process, whole batches) and ``rank0.pt``, ``rank1.pt``.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from unfit import unfit

from rto.batching.optimizer_steps import OptimizerStep, loss_norms, plan_update, rank_share
from rto.data.examples import Example, collate_groups
from rto.errors import UserError
from rto.methods.sft import SFT
from rto.models.causal import CausalPolicy
from rto.models.heads import SequenceReward
from rto.sections.training import Adam
from rto.training.deepspeed import ZeroEngine, init_process_group
from rto.training.engine_settings import EngineSettings
from rto.training.learner import Objective, PolicyTrainer, ScoreTrainer
from rto.training.writer import FileWriter, HostFile
from rto.types import LossNorm, LossOutput, PolicyOutput, TokenBatch, TrainBatch

VOCABULARY = 23
STAGES = (0, 1, 2, 3)
SETTINGS = EngineSettings(
    zero_stage=0,
    dtype="fp32",
    adam=Adam(lr=1e-2, weight_decay=0.1),
    max_norm=0.5,
    scheduler="cosine_with_min_lr",
    warmup_steps=0,
    total_steps=4,
    min_lr_ratio=0.1,
    device="cpu",
)


def tiny_config() -> LlamaConfig:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    config.num_labels = 1
    return config


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config())


def rows(count: int) -> TokenBatch:
    rng = random.Random(5)
    prompts = [
        [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(1, 4))] for _ in range(count)
    ]
    answers = [
        [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(1, 6))] for _ in range(count)
    ]
    pairs = zip(prompts, answers, strict=True)
    groups = [[Example(tuple(prompt), tuple(answer), True)] for prompt, answer in pairs]
    return collate_groups(groups, pad_token_id=0)


def plan(tokens: TokenBatch) -> list[OptimizerStep]:
    """Three steps of five rows, one row per forward: one rank has an empty micro-batch."""
    return plan_update(
        tokens.lengths.tolist(),
        tokens.group.tolist(),
        num_ranks=2,
        batch_size=5,
        max_tokens=64,
        max_sequences=1,
        seed=0,
        epoch=0,
    )


def reference() -> dict[str, Any]:
    """AdamW on the mean over each step's tokens, clipped, with the schedule's formula."""
    policy, tokens = CausalPolicy(tiny_llama()), rows(15)
    named = list(policy.model.named_parameters())
    adam = SETTINGS.adam
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": adam.weight_decay},
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=adam.betas,
        eps=adam.eps,
    )
    losses, norms, rates = [], [], []
    for index, step in enumerate(plan(tokens)):
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * index / SETTINGS.total_steps)))
        rates.append(adam.lr * float(0.1 + 0.9 * cosine))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        batch = tokens.take(step.rows)
        loss = -policy(batch).logprobs.sum() / batch.response_mask.sum()
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(policy.parameters(), SETTINGS.max_norm)))
        optimizer.step()
        losses.append(loss.item())
    scores = policy(tokens, temperature=0.7).logprobs.detach()
    weights = {name: p.detach() for name, p in named}
    return {"losses": losses, "norms": norms, "rates": rates, "weights": weights, "scores": scores}


class Poisoned(SFT):
    """A finite loss, 0, with a gradient that is not: d sqrt(x) at 0, times 0."""

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return LossOutput((output.logprobs.sum() * 0).sqrt())


class RaisedScore(SFT):
    def score_loss(self, scores: torch.Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        return LossOutput(-scores.sum() / norm.sequences)


def settings(stage: int, **changes: Any) -> EngineSettings:
    return dataclasses.replace(SETTINGS, zero_stage=stage, **changes)


def policy_trainer(chosen: EngineSettings, **options: Any) -> PolicyTrainer:
    policy = CausalPolicy(tiny_llama())
    return PolicyTrainer(ZeroEngine(policy, settings=chosen, exported=policy.model), **options)


def objectives(rank: int, method: Any, coef: float = 1.0) -> list[Objective]:
    """One objective per optimizer step, with nothing but this rank's rows."""
    tokens = rows(15)
    steps = plan(tokens)
    kept, local = rank_share(steps, rank)
    norms = loss_norms(tokens, steps)
    batch = TrainBatch(tokens.take(kept))
    return [
        Objective(method, batch, [micros], [norm], coef=coef)
        for micros, norm in zip(local, norms, strict=True)
    ]


def copied(engine: ZeroEngine) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in engine.named_full_parameters()}


def write(files: list[HostFile]) -> None:
    """On all ranks, as they write behind a run."""
    writer = FileWriter()
    writer.start(files)
    while writer.written() is None:
        time.sleep(0.01)
    dist.barrier()


def train(rank: int, stage: int, directory: Path) -> dict[str, Any]:
    trainer = policy_trainer(settings(stage))
    work = objectives(rank, SFT())
    stats = [trainer.update(objective) for objective in work[:2]]
    trainer.save(directory, f"stage{stage}")
    files = trainer.snapshot(directory, f"behind{stage}")
    stats.append(trainer.update(work[2]))
    share = range(10) if rank == 0 else range(10, 15)
    scores = trainer.score(rows(15).take(list(share)), max_tokens=20, temperature=0.7)

    resumed = policy_trainer(settings(stage))
    resumed.load(directory, f"stage{stage}")
    resumed.update(work[2])
    behind = policy_trainer(settings(stage))
    write(files)
    behind.load(directory, f"behind{stage}")
    behind.update(work[2])
    return {
        "losses": [s.metrics["sft/loss"] for s in stats],
        "norms": [s.metrics["policy/grad_norm"] for s in stats],
        "rates": [s.metrics["policy/lr"] for s in stats],
        "tokens": sum(s.tokens for s in stats),
        "scores": scores,
        "weights": copied(trainer.engine),
        "resumed": copied(resumed.engine),
        "behind": copied(behind.engine),
    }


def diverge(rank: int, stage: int, dtype: Any) -> dict[str, Any]:
    """Past its first step, an engine that leaves out two steps beside one that never had them; then
    the loss stays NaN, on one rank, until the run is to end."""
    trainer, spared = (
        policy_trainer(settings(stage, dtype=dtype), max_skipped=2) for _ in range(2)
    )
    gradient = objectives(rank, Poisoned())[0]
    loss = objectives(rank, SFT(), coef=float("nan") if rank == 1 else 1.0)[0]
    work = objectives(rank, SFT())
    for each in (trainer, spared):
        each.update(work[0])
    before = copied(trainer.engine)
    left_out = [trainer.update(gradient), trainer.update(loss)]
    after = copied(trainer.engine)
    for each in (trainer, spared):
        each.update(work[1])
    recovered = copied(trainer.engine)
    ending = [trainer.update(loss) for _ in range(3)]
    return {
        "left_out": left_out,
        "before": before,
        "after": after,
        "recovered": recovered,
        "spared": copied(spared.engine),
        "diverged": [stats.diverged for stats in ending],
        "end": copied(trainer.engine),
    }


def half(rank: int, stage: int) -> dict[str, Any]:
    trainer = policy_trainer(settings(stage, dtype="bf16"))
    losses = [trainer.update(work).metrics["sft/loss"] for work in objectives(rank, SFT())]
    return {"losses": losses}


def lora(rank: int, stage: int) -> dict[str, Any]:
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False)
    policy = CausalPolicy(get_peft_model(tiny_llama(), config))
    engine = ZeroEngine(policy, settings=settings(stage), exported=policy.model)
    trainer = PolicyTrainer(engine)
    trainer.update(objectives(rank, SFT())[0])
    tokens = rows(15)
    merged = CausalPolicy(tiny_llama())
    missing = merged.model.load_state_dict(copied(engine), strict=False)
    return {
        "names": [name for name, _ in engine.named_full_parameters()],
        "unexpected": missing.unexpected_keys,
        "moved": not torch.equal(
            merged(tokens).logprobs, CausalPolicy(tiny_llama())(tokens).logprobs
        ),
        "adapted": trainer.score(tokens, max_tokens=64),
        "merged": merged(tokens).logprobs.detach(),
    }


def moving_average(rank: int, directory: Path) -> dict[str, Any]:
    trainer = policy_trainer(settings(3), ema_beta=0.75)
    start = copied(trainer.engine)
    trainer.update(objectives(rank, SFT())[0])
    write(trainer.snapshot(directory, "ema"))
    loaded = policy_trainer(settings(3), ema_beta=0.75)
    loaded.load(directory, "ema")
    return {
        "start": start,
        "end": copied(trainer.engine),
        "average": dict(trainer.named_weights()),
        "loaded": dict(loaded.named_weights()),
    }


def reward_model(rank: int) -> dict[str, Any]:
    torch.manual_seed(2)
    model = SequenceReward(LlamaForSequenceClassification(tiny_config()))
    plain = copy.deepcopy(model)
    trainer = ScoreTrainer(ZeroEngine(model, settings=settings(3), exported=model.model))
    tokens = rows(15)
    before = trainer.score(tokens, max_tokens=30)
    stats = trainer.update(objectives(rank, RaisedScore())[0])
    return {
        "before": before,
        "plain": plain(tokens).detach(),
        "after": trainer.score(tokens, max_tokens=30),
        "metrics": sorted(stats.metrics),
    }


class Asked(dict[str, Any]):
    """Notes the names that are asked for."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.names: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def keys(self) -> Any:
        return self


def with_a_file(rank: int) -> dict[str, Any]:
    """Engines with settings of a user's file, and what DeepSpeed reads at the top of one."""
    from deepspeed.runtime import config

    zero = {"reduce_bucket_size": 1234, "stage3_prefetch_bucket_size": 567}
    for_two, for_three = (
        policy_trainer(settings(stage, extras={"zero_optimization": zero})) for stage in (2, 3)
    )
    losses = [for_two.update(work).metrics["sft/loss"] for work in objectives(rank, SFT())]
    refused = ""
    try:
        policy_trainer(settings(2, extras={"zero_optimization": {"reduce_bucket_sise": 1}}))
    except UserError as error:
        refused = str(error)
    asked = Asked({"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1})
    config.DeepSpeedConfig(asked)
    return {
        "stage 2": for_two.engine._engine.optimizer.reduce_bucket_size,
        "stage 3": for_three.engine._engine.optimizer.reduce_bucket_size,
        "prefetch": for_three.engine._engine.zero_prefetch_bucket_size(),
        "losses": losses,
        "refused": refused,
        "asked": asked.names - config._REMOVED_TOP_LEVEL_CONFIG_KEYS.keys(),
    }


def main(rank: int, port: int, directory: Path) -> None:
    torch.set_num_threads(1)
    init_process_group(
        rank=rank,
        world_size=2,
        master_addr="127.0.0.1",
        master_port=port,
        timeout=60,
        device="cpu",
    )
    results = {
        "train": {stage: train(rank, stage, directory) for stage in STAGES},
        "diverge": {
            (stage, dtype): diverge(rank, stage, dtype)
            for stage in STAGES
            for dtype in ("fp32", "bf16")
        },
        "unfit": {
            stage: unfit(rank, directory, f"unfit{stage}", partial(policy_trainer, settings(stage)))
            for stage in (0, 2, 3)
        },
        "half": {stage: half(rank, stage) for stage in STAGES},
        "lora": {stage: lora(rank, stage) for stage in (2, 3)},
        "ema": moving_average(rank, directory),
        "reward_model": reward_model(rank),
        "with_a_file": with_a_file(rank),
    }
    torch.save(results, directory / f"rank{rank}.pt")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    torch.save(reference(), target / "reference.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()[1]
    spawn(main, args=(address, target), nprocs=2)
