"""The stages of the quickstart, how much each trains on, and what the table says of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rto.evaluation.statistics import Mean
from rto.resources import CONFIGS
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig

STAGES = {
    "sft": "sft",
    "reward": "reward",
    "dpo": "dpo",
    "ppo": "train",
    "rto": "train",
}
"""Stage -> the command that runs ``examples/configs/quickstart-STAGE.yaml``."""

NUM_SFT, NUM_PAIRS, NUM_PROMPTS, NUM_EVAL, NUM_FEEDBACK = 8000, 8000, 4000, 192, 4000
SAMPLES_PER_PROMPT = 4


@dataclass(frozen=True)
class PolicyRow:
    """What the table says of one policy."""

    gold_reward: Mean
    reward: float
    kl: float
    length: float


def stage_config(stage: str, folder: Path) -> RunConfig:
    flags = ["--config", str(CONFIGS / f"quickstart-{stage}.yaml")]
    return parse_run(STAGES[stage], [*flags, "--ckpt.output_dir", str(folder)]).config
