"""What a run will need, before it starts: memory per actor, steps, disk. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from rto.sections.run_config import RunConfig

GIB = 1024**3


@dataclass(frozen=True)
class Estimate:
    """One line of the plan: a figure with its unit and how it comes about."""

    name: str
    value: str
    why: str


def trainer_bytes(num_params: int, *, config: RunConfig, ranks: int) -> float:
    """Weights, gradients and Adam's states on one rank, without activations.

    ZeRO 1 shards the optimizer states, 2 the gradients too, 3 the weights too
    (Rajbhandari et al. 2020, section 5). Mixed precision adds an fp32 copy of the weights.
    """
    width = 2 if config.ds.dtype == "bf16" else 4
    stage = config.ds.zero_stage
    trained = num_params
    if config.ds.lora.rank:
        trained = num_params // 100
    optimizer = trained * (8 if width == 4 else 12)
    weights = num_params * width / (ranks if stage >= 3 else 1)
    gradients = trained * width / (ranks if stage >= 2 else 1)
    states = 0 if config.ds.adam_offload else optimizer / (ranks if stage >= 1 else 1)
    return weights + gradients + states


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


def disk_bytes(num_params: int, *, config: RunConfig) -> float:
    """Checkpoints kept (weights and optimizer) plus the `last` and `best` exports."""
    width = 2 if config.ds.dtype == "bf16" else 4
    checkpoint = num_params * (width + (8 if width == 4 else 12))
    kept = max(1, config.ckpt.max_num) + 1
    return checkpoint * kept + 2 * num_params * width


def gib(value: float) -> str:
    return f"{value / GIB:.2f} GiB"
