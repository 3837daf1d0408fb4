"""How an iteration divides into sequences, optimizer steps and ranks."""

from __future__ import annotations

from dataclasses import dataclass

from rto.sections.run_config import RunConfig


@dataclass(frozen=True)
class Estimate:
    """One line of the plan: a figure with its unit and how it comes about."""

    name: str
    value: str
    why: str


def batch_arithmetic(config: RunConfig, *, iterations: int) -> list[Estimate]:
    """How an online iteration divides into sequences, optimizer steps and ranks."""
    rollout, train = config.rollout, config.train
    sequences = rollout.num_sequences
    steps = sequences // train.batch_size * train.max_epochs
    return [
        Estimate(
            "sequences per iteration",
            f"{sequences}",
            f"{rollout.batch_size} prompts x {rollout.n_samples_per_prompt} samples",
        ),
        Estimate(
            "optimizer steps per iteration",
            f"{steps}",
            f"{sequences} sequences / {train.batch_size} per step x {train.max_epochs} epochs",
        ),
        Estimate(
            "sequences per rank and step",
            f"{train.batch_size // config.num_shards}",
            f"{train.batch_size} / {config.told_shards}",
        ),
        Estimate(
            "tokens per sequence, at most",
            f"{config.data.max_len}",
            f"{config.max_prompt_len} prompt + {config.max_new_tokens} response",
        ),
        Estimate("iterations", f"{iterations}", "train.num_episodes and train.max_steps"),
        Estimate(
            "optimizer steps", f"{iterations * steps}", f"{iterations} iterations x {steps} steps"
        ),
    ]
