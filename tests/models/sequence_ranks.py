"""Ranks that share rows train a tiny Llama; test_sequence_ranks.py compares them with one rank.

    python sequence_ranks.py DIRECTORY

writes ``of1.pt`` (one rank, whole rows) and, of rank 0, ``of2.pt`` (two ranks share each row) and
``of4.pt`` (four ranks: all of them share each row, or two and two).
"""

from __future__ import annotations

import dataclasses
import random
import socket
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rto.batching.optimizer_steps import loss_norms, plan_update, rank_share
from rto.batching.shards import shard_rows, unshard
from rto.data.examples import Example, collate_groups
from rto.methods.ppo import PPO
from rto.methods.preference import DPO
from rto.methods.sft import SFT
from rto.models.causal import CausalPolicy
from rto.models.heads import SequenceReward, TokenValue
from rto.models.sequence import SequenceRanks
from rto.protocols import Output
from rto.sections.training import Adam
from rto.training.deepspeed import ZeroEngine, init_process_group
from rto.training.engine_settings import EngineSettings
from rto.training.learner import CriticTrainer, Objective, PolicyTrainer, RankTrainer, ScoreTrainer
from rto.types import (
    LossNorm,
    LossOutput,
    PolicyOutput,
    Role,
    ScoredBatch,
    TokenBatch,
    TrainBatch,
)

VOCABULARY = 29
MAX_TOKENS = 60
WORLDS = {1: (1,), 2: (2,)}
"""Ranks of a run -> how many of them share rows."""
Kind = Literal["dpo", "ppo", "critic", "score", "everything"]


class Case(NamedTuple):
    kind: Kind
    stage: Literal[0, 1, 2, 3]
    checkpointing: bool


CASES = [
    Case("dpo", 1, checkpointing=False),
    Case("dpo", 3, checkpointing=True),
    Case("ppo", 2, checkpointing=False),
    Case("critic", 2, checkpointing=True),
    Case("score", 0, checkpointing=False),
    Case("everything", 3, checkpointing=True),
]
ALONE = [Case(kind, 0, checkpointing=False) for kind in get_args(Kind)]
CASES_OF = {1: ALONE, 2: CASES}
"""Ranks of a run -> what they train."""


def tiny_config() -> LlamaConfig:
    """Two key heads: four ranks take each of them twice."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        initializer_range=0.3,
    )
    config.num_labels = 1
    return config


def settings(stage: Literal[0, 1, 2, 3]) -> EngineSettings:
    return EngineSettings(
        zero_stage=stage,
        dtype="fp32",
        adam=Adam(lr=1e-2, weight_decay=0.1),
        max_norm=0.5,
        scheduler="constant",
        warmup_steps=0,
        total_steps=9,
        min_lr_ratio=0.1,
        device="cpu",
    )


def rows() -> TokenBatch:
    """Eight prompts, two responses to each."""
    rng = random.Random(7)

    def text(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, VOCABULARY) for _ in range(rng.randint(1, most)))

    prompts = [text(9) for _ in range(8)]
    groups = [[Example(prompt, text(12), True) for _ in range(2)] for prompt in prompts]
    return collate_groups(groups, pad_token_id=0)


def scored(tokens: TokenBatch) -> ScoredBatch:
    rng = torch.Generator().manual_seed(1)
    shape = tokens.response_mask.shape
    dense = {
        role: (torch.randn(shape, generator=rng) - 3).masked_fill(~tokens.response_mask, 0)
        for role in (Role.POLICY, Role.REFERENCE, Role.CRITIC)
    }
    return ScoredBatch(tokens, {**dense, Role.REWARD: torch.randn(len(tokens), generator=rng)})


class Everything(SFT):
    """Reads all that a policy's forward gives, by the row and by the token."""

    @property
    def outputs(self) -> frozenset[Output]:
        return frozenset({"entropy", "value", "reference_kl"})

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        assert output.entropy is not None
        assert output.reference_kl is not None
        assert output.value is not None
        dense = (output.entropy + output.reference_kl * 3 - output.logprobs**2).sum() / norm.tokens
        value = (output.value**2).sum() / norm.sequences
        return LossOutput(dense + value, {"x/loss": (dense + value).detach()})


class Above(SFT):
    def score_loss(self, scores: torch.Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        loss = ((scores - 1) ** 2).sum() / norm.sequences
        return LossOutput(loss, {"x/loss": loss.detach()})


def method_of(kind: Kind) -> Any:
    if kind in ("ppo", "critic"):
        return PPO()
    return {"dpo": DPO(), "score": Above(), "everything": Everything()}[kind]


def module_of(kind: Kind) -> Any:
    torch.manual_seed(0)
    if kind == "critic":
        return TokenValue(LlamaForSequenceClassification(tiny_config()), constants=(0.5, 2.0))
    if kind == "score":
        return SequenceReward(LlamaForSequenceClassification(tiny_config()))
    return CausalPolicy(LlamaForCausalLM(tiny_config()), value_head=kind == "everything")


def trainer_of(case: Case, ranks: SequenceRanks | None) -> RankTrainer:
    module = module_of(case.kind)
    assert module.packs
    if case.checkpointing:
        module.model.gradient_checkpointing_enable({"use_reentrant": False})
    reference = None
    if case.kind == "everything":
        torch.manual_seed(5)
        reference = CausalPolicy(LlamaForCausalLM(tiny_config())).eval().requires_grad_(False)
    if ranks is not None:
        module.share(ranks)
        if reference is not None:
            reference.share(ranks)
    engine = ZeroEngine(module, settings=settings(case.stage), exported=module.model)
    common: dict[str, Any] = {"packs": True, "shared_by": 1 if ranks is None else ranks.size}
    if case.kind == "critic":
        return CriticTrainer(engine, **common)
    if case.kind == "score":
        return ScoreTrainer(engine, **common)
    return PolicyTrainer(engine, reference=reference, **common)


def run(case: Case, shared_by: int, ranks: SequenceRanks | None) -> dict[str, Any]:
    """Four optimizer steps, and the scores of all rows before and after."""
    trainer, method, tokens = trainer_of(case, ranks), method_of(case.kind), rows()
    shards, shard = dist.get_world_size() // shared_by, dist.get_rank() // shared_by
    steps = plan_update(
        tokens.lengths.tolist(),
        tokens.group.tolist(),
        num_ranks=shards,
        batch_size=4,
        max_tokens=MAX_TOKENS,
        max_sequences=3,
        seed=0,
        epoch=0,
        whole_groups=method.whole_groups,
        packs=True,
    )
    batch, _ = method.targets(scored(tokens))
    kept, local = rank_share(steps, shard)
    norms = loss_norms(tokens, steps)
    before = scores_of(trainer, tokens, shards, shard, shared_by)
    stats = [
        trainer.update(Objective(method, batch.take(kept), [micros], [norm]))
        for micros, norm in zip(local, norms, strict=True)
    ]
    return {
        "metrics": [dict(each.metrics) for each in stats],
        "tokens": [each.tokens for each in stats],
        "before": before,
        "after": scores_of(trainer, tokens, shards, shard, shared_by),
        "weights": {n: w.clone() for n, w in trainer.engine.named_full_parameters()},
    }


def scores_of(
    trainer: RankTrainer, tokens: TokenBatch, shards: int, shard: int, shared_by: int
) -> torch.Tensor:
    """Of all rows, in their order: on every rank."""
    parts = shard_rows(tokens.lengths.tolist(), shards, tokens.group.tolist())
    mine = tokens.take(parts[shard])
    found = trainer.score(mine, max_tokens=MAX_TOKENS, temperature=0.7)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    return unshard(everyone[::shared_by], parts)


def refusals(ranks: SequenceRanks) -> list[str]:
    """What is said of models whose rows cannot be shared by these ranks."""
    odd = dataclasses.replace(ranks, index=min(ranks.index, 2), size=3)
    padded = module_of("dpo")
    padded._decoder.packs = False
    said: list[str] = []
    for module, which in ((module_of("dpo"), odd), (padded, ranks)):
        try:
            module.share(which)
        except ValueError as error:
            said.append(str(error))
    return said


def main(rank: int, world: int, port: int, directory: Path) -> None:
    torch.set_num_threads(1)
    init_process_group(
        rank=rank,
        world_size=world,
        master_addr="127.0.0.1",
        master_port=port,
        timeout=60,
        device="cpu",
    )
    results: dict[Any, Any] = {}
    for shared_by in WORLDS[world]:
        shared = shared_by > 1
        ranks = SequenceRanks.of_this_rank(shared_by, timeout=60) if shared else None
        for case in CASES_OF[world]:
            results[(shared_by, *case)] = run(case, shared_by, ranks)
        if ranks is not None:
            results["refused"] = refusals(ranks)
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, {k: v for k, v in results.items() if k != "refused"})
    results["alike"] = all(alike(results[key], each[key]) for each in everyone for key in each)
    if rank == 0:
        torch.save(results, directory / f"of{world}.pt")


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    same = one["metrics"] == other["metrics"] and one["tokens"] == other["tokens"]
    return same and all(torch.equal(w, other["weights"][n]) for n, w in one["weights"].items())


if __name__ == "__main__":
    for number in WORLDS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = free.getsockname()[1]
        spawn(main, args=(number, address, Path(sys.argv[1])), nprocs=number)
