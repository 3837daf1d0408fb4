"""What all arms of one seed share: the reference, its answers with rewards, and V*."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from benchmarks.studies.scalar.task import (
    EOS,
    MAX_RESPONSE,
    MISMATCHED,
    PAD,
    TEACHER,
    VOCABULARY,
    Task,
    all_prompts,
    token_batch,
)
from rto.methods.sft import SFT
from rto.models.causal import CausalPolicy
from rto.models.families import load_critic, load_policy
from rto.models.policy import Policy, unwrapped
from rto.models.seq2seq import Seq2SeqPolicy
from rto.types import LossNorm, Role, ScoredBatch, TokenBatch, TrainBatch

Architecture = Literal["decoder", "t5"]
CHUNK = 4096
LOAD: Any = {"dtype": torch.float32, "attn_implementation": "sdpa"}


@dataclass(frozen=True)
class Settings:
    """``rows`` and ``updates`` make one epoch of ``train_prompts`` times ``responses`` answers, 32
    at a time, as in the release of RPO. ``lrs`` are those that every arm is tried with."""

    width: int = 64
    layers: int = 2
    train_prompts: int = 1024
    test_prompts: int = 256
    test_samples: int = 4
    value_prompts: int = 64
    value_samples: int = 1024
    sft_updates: int = 400
    sft_rows: int = 128
    sft_lr: float = 3e-3
    lrs: tuple[float, ...] = (3e-4, 1e-3)
    updates: int = 128
    rows: int = 32
    responses: int = 4
    most_responses: int = 8
    gradients: int = 32
    grid: tuple[float, ...] = (0.1, 0.5, 1.0, 5.0)
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """The strengths of the arms with a temperature, and of SFT."""


@dataclass(frozen=True)
class World:
    """Rewards are those of the task in standard deviations over the reference's answers to the
    training prompts; those of ``off_policy`` over its own, as the package scales a data set."""

    task: Task
    path: Path
    """The reference as a Hugging Face directory, where policies and critics start."""
    reference: Policy
    rated: ScoredBatch
    """Training prompts times ``most_responses`` answers of the reference."""
    off_policy: ScoredBatch
    """The same prompts times ``responses`` answers of the mismatched writer."""
    scale: tuple[float, float]
    """Mean and standard deviation of the reference's rewards."""
    test_prompts: Tensor

    def policy(self, *, value_head: bool = False) -> Policy:
        return load_policy(str(self.path), value_head=value_head, **LOAD)

    def critic(self) -> torch.nn.Module:
        return load_critic(str(self.path), **LOAD)

    def rewards(self, tokens: TokenBatch) -> Tensor:
        mean, std = self.scale
        return (self.task.rewards(tokens) - mean) / std


def make_world(architecture: Architecture, settings: Settings, *, seed: int, path: Path) -> World:
    task = Task.make(seed)
    prompts = all_prompts(seed)
    train = prompts[: settings.train_prompts]
    test = prompts[settings.train_prompts :][: settings.test_prompts]
    reference = fit_reference(architecture, settings, train, seed=seed)
    unwrapped(reference.model).save_pretrained(path)
    reference.eval().requires_grad_(False)

    rated = sample(reference, train.repeat_interleave(settings.most_responses, 0), seed=seed)
    rng = torch.Generator().manual_seed(seed)
    off_policy = MISMATCHED.write(train.repeat_interleave(settings.responses, 0), rng)
    return World(
        task=task,
        path=path,
        reference=reference,
        rated=_scored(task, reference, rated),
        off_policy=_scored(task, reference, off_policy),
        scale=_scale(task.rewards(rated)),
        test_prompts=test.repeat_interleave(settings.test_samples, 0),
    )


def fit_reference(
    architecture: Architecture, settings: Settings, prompts: Tensor, *, seed: int
) -> Policy:
    """A policy trained from scratch on fresh answers of the teacher, by the package's SFT."""
    policy = new_policy(architecture, settings, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=settings.sft_lr, weight_decay=0.0, fused=True
    )
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.sft_updates)
    method = SFT()
    for _ in range(settings.sft_updates):
        rows = torch.randint(len(prompts), (settings.sft_rows,), generator=rng)
        tokens = TEACHER.write(prompts[rows], rng)
        loss = method.loss(policy(tokens), TrainBatch(tokens), loss_norm(tokens)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return policy


def new_policy(architecture: Architecture, settings: Settings, *, seed: int) -> Policy:
    width, layers = settings.width, settings.layers
    torch.manual_seed(seed)
    if architecture == "decoder":
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=32,
            initializer_range=0.08,
            tie_word_embeddings=False,
            pad_token_id=PAD,
            bos_token_id=PAD,
            eos_token_id=EOS,
        )
        return CausalPolicy(LlamaForCausalLM(config))
    shape: Any = {
        "vocab_size": VOCABULARY,
        "d_model": width,
        "d_kv": width // 4,
        "d_ff": 2 * width,
        "num_layers": layers,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "tie_word_embeddings": False,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "decoder_start_token_id": PAD,
    }
    return Seq2SeqPolicy(T5ForConditionalGeneration(T5Config(**shape)))


@torch.no_grad()
def sample(policy: Policy, prompts: Tensor, *, seed: int) -> TokenBatch:
    """One answer at temperature 1 to each of ``prompts`` [B, 4].

    The same seed gives the same random numbers to each row whatever the policy.
    """
    model: Any = unwrapped(policy.model)
    torch.manual_seed(seed)
    parts: list[Tensor] = []
    for chunk in prompts.split(CHUNK):
        ids = model.generate(
            chunk,
            attention_mask=torch.ones_like(chunk),
            do_sample=True,
            top_k=0,
            max_new_tokens=MAX_RESPONSE,
        )
        new = ids[:, 1:] if model.config.is_encoder_decoder else ids[:, chunk.shape[1] :]
        width = MAX_RESPONSE - new.shape[1]
        parts.append(torch.nn.functional.pad(new, (0, width), value=PAD))
    return token_batch(prompts, torch.cat(parts))


@torch.no_grad()
def logprobs(policy: Policy, tokens: TokenBatch) -> Tensor:
    """[B, T], without gradients and in parts."""
    rows = torch.arange(len(tokens)).split(CHUNK)
    return torch.cat([policy(tokens.take(part)).logprobs for part in rows])


def loss_norm(tokens: TokenBatch) -> LossNorm:
    return LossNorm(
        tokens=int(tokens.response_mask.sum()),
        sequences=len(tokens),
        groups=len(tokens.group.unique()),
    )


def true_values(world: World, settings: Settings, *, tau: float, seed: int) -> Tensor:
    """V* = tau log E exp(r / tau) of the first training prompts, from a large sample
    [value_prompts]."""
    prompts = world.rated.tokens.prompt_ids[:: settings.most_responses][: settings.value_prompts]
    count = settings.value_samples
    drawn = sample(world.reference, prompts.repeat_interleave(count, 0), seed=seed)
    scaled = world.rewards(drawn).double().view(-1, count) / tau
    return tau * (scaled.logsumexp(-1) - math.log(count))


def _scored(task: Task, reference: Policy, tokens: TokenBatch) -> ScoredBatch:
    rewards = task.rewards(tokens)
    mean, std = _scale(rewards)
    scores = {Role.REWARD: (rewards - mean) / std, Role.REFERENCE: logprobs(reference, tokens)}
    return ScoredBatch(tokens, scores)


def _scale(rewards: Tensor) -> tuple[float, float]:
    return float(rewards.mean()), float(rewards.std(correction=0))
