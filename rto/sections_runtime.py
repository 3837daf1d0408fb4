"""The sections of a run's configuration that say what it runs on and what it leaves behind."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from rto.sections import require

_GPUS = re.compile(r"(?P<count>[1-9]\d{0,4})x[A-Za-z][A-Za-z0-9]{0,15}(?:-(?P<gib>[1-9]\d{0,3}))?")


@dataclass(frozen=True)
class Lora:
    rank: int = 0
    """0 trains all weights."""
    alpha: int = 16
    dropout: float = 0.0
    target_modules: str = "all-linear"


@dataclass(frozen=True)
class DeepSpeed:
    zero_stage: Literal[0, 1, 2, 3] = 2
    adam_offload: bool = False
    param_dtype: Literal["bf16", "fp32"] = "bf16"
    attn_implementation: str = "sdpa"
    load_in_4bit: bool = False
    lora: Lora = field(default_factory=Lora)
    overlap_comm: bool = False
    timeout: float = 300.0
    """Seconds before a collective that hangs ends the run."""


@dataclass(frozen=True)
class VLLM:
    num_engines: int = 1
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    enable_prefix_caching: bool = True
    enable_sleep: bool = True
    """Free the engine's GPU memory while others work (colocated CUDA only; no-op elsewhere)."""
    sync_backend: Literal["auto", "object_store", "nccl", "ipc"] = "auto"
    cpu_kvcache_gib: int = 1
    logprob_tolerance: float | None = None
    """Largest mean |engine - trainer| log-prob per token; unset: 1e-3 in fp32, 0.1 in bf16."""

    def __post_init__(self) -> None:
        require(self.num_engines >= 1, f"vllm.num_engines is {self.num_engines}: must be 1+")


@dataclass(frozen=True)
class Cluster:
    address: str | None = None
    """Ray cluster to join; unset starts a local one on loopback."""
    num_cpus: int | None = None
    object_store_gib: float | None = None
    actor_timeout: float = 1800.0
    """Seconds that one call on an actor may take."""
    start_timeout: float = 300.0
    """Seconds that the actors may take to start."""


@dataclass(frozen=True)
class Planned:
    """`--dry_run` for a machine that is somewhere else."""

    gpus: str | None = None
    """GPUs to plan for where there are none, as COUNTxNAME-GIB: 8xA100-80."""

    @property
    def num_gpus(self) -> int:
        found = _GPUS.fullmatch(self.gpus or "")
        return int(found["count"]) if found else 0

    def __post_init__(self) -> None:
        require(
            self.gpus is None or self.num_gpus >= 1,
            f"plan.gpus is {self.gpus!r}: write COUNTxNAME-GIB, as in 8xA100-80",
        )


@dataclass(frozen=True)
class Ckpt:
    output_dir: str | None = None
    """The run folder; runs/<method>-<date and time> when unset."""
    save_steps: int = -1
    """Checkpoint every so many iterations (online) or optimizer steps (offline); -1: at the end."""
    max_num: int = 3
    load_enable: bool = False
    """Go on from the newest checkpoint of the run folder."""
    best_metric_key: str = ""
    """Metric (higher is better) that names the `best` export; the reward online, if unset."""


@dataclass(frozen=True)
class WandB:
    enable: bool = False
    project: str = "rto"
    run_name: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Logger:
    logging_steps: int = 1
    tensorboard: bool = True
    wandb: WandB = field(default_factory=WandB)
    """The key is read from WANDB_API_KEY."""


@dataclass(frozen=True)
class Generate:
    """`rto generate`: the RTO authors' sampling settings for AlpacaEval 2."""

    model: str | None = None
    """A run folder (its `last` export), a Hugging Face directory or a hub id."""
    prompt: list[str] = field(default_factory=list)
    """Give the flag once per prompt. The tokenizer's chat template, if it has one, is applied."""
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 4096
    """Longest response; what the prompt leaves of the model's context, where that is less."""
    num_samples: int = 1
    """Responses per prompt."""

    def __post_init__(self) -> None:
        require(self.temperature >= 0, f"generate.temperature is {self.temperature}: 0 or more")
        require(0 < self.top_p <= 1, f"generate.top_p is {self.top_p}: must be in (0, 1]")
        for name in ("max_new_tokens", "num_samples"):
            value = vars(self)[name]
            require(value >= 1, f"generate.{name} is {value}: must be 1 or more")
