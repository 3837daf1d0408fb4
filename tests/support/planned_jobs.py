"""Runs as the cost model takes them: the example configurations on Llama's sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rto.planning.cards import Machine, find_card
from rto.planning.job import Job
from rto.planning.shape import ModelShape
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig

CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "configs"
TABLE = 128256 * 4096
LLAMA_8B = ModelShape(
    params=8_030_261_248, layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128,
    intermediate=14336, vocab=128256, embedding_params=TABLE, tied=False, largest=TABLE,
)  # fmt: skip
LLAMA_1B_VALUE = ModelShape(
    params=1_235_816_448, layers=16, hidden=2048, heads=32, kv_heads=8, head_dim=64,
    intermediate=8192, vocab=128256, embedding_params=128256 * 2048, tied=False, head=False,
)  # fmt: skip
"""Llama-3.2-1B with a scalar head."""


def machine(gpus: int = 8, nodes: int = 1, card: str = "A100", gib: int = 80) -> Machine:
    found = find_card(card, gib)
    assert found is not None
    return Machine(found, gpus, nodes)


def rto_config(name: str = "rto-llama3-8b-8xa100", *flags: str) -> RunConfig:
    """Without ``ds.adam_offload``, which an 80 GB card does not need."""
    path = CONFIGS / f"{name}.yaml"
    argv = ["--config", str(path), "--ds.adam_offload", "false", *flags]
    return parse_run("train", argv).config


def rto_job(config: RunConfig | None = None, **changes: Any) -> Job:
    """RTO on eight A100: an 8B policy, reference and DPO policy, a 1B critic and reward model."""
    job = Job(
        config or rto_config(),
        machine(),
        LLAMA_8B,
        "ipc",
        prompt_tokens=250,
        response_tokens=400,
        critic=LLAMA_1B_VALUE,
        frozen=(LLAMA_8B, LLAMA_8B, LLAMA_1B_VALUE),
    )
    return replace(job, **changes)
