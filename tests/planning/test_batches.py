"""How an iteration divides, each figure against its own arithmetic written out."""

from __future__ import annotations

from rto.planning.batches import batch_arithmetic
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.training import Actor, RolloutSection, Train


def test_batch_arithmetic_multiplies_out() -> None:
    config = RunConfig(
        actor=Actor(num_gpus_per_node=2),
        rollout=RolloutSection(batch_size=8, n_samples_per_prompt=4, max_new_tokens=24),
        train=Train(batch_size=16, max_epochs=3),
        data=Data(max_len=64),
    )
    lines = {line.name: line.value for line in batch_arithmetic(config, iterations=5)}
    assert lines == {
        "sequences per iteration": "32",  # 8 prompts x 4
        "optimizer steps per iteration": "6",  # 32 / 16 x 3 epochs
        "sequences per rank and step": "8",  # 16 / 2
        "tokens per sequence, at most": "64",
        "iterations": "5",
        "optimizer steps": "30",  # 5 x 6
    }
