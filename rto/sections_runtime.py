"""The sections of a run's configuration that say what it runs on and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rto.ranges import (
    Count,
    CountOrZero,
    Devices,
    Every,
    MayBeEmpty,
    Positive,
    PositiveShare,
    Range,
    Seconds,
    Section,
)

Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass(frozen=True)
class Lora(Section):
    """Low-rank adapters."""

    rank: CountOrZero = 0
    """Rank of the adapters; 0 trains all weights."""
    alpha: Count = 16
    """The adapters' product is scaled by alpha / rank."""
    dropout: Annotated[float, Range(least=0, below=1)] = 0.0
    """Dropout before the adapters."""
    target_modules: str = "all-linear"
    """Modules with adapters: names separated by commas, or all-linear."""


@dataclass(frozen=True)
class DeepSpeed(Section):
    """The trainer's memory and precision."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """Shards over the ranks: nothing, optimizer state, gradients too, weights too."""
    adam_offload: bool = False
    """Keep optimizer state in host memory and update there (CUDA only)."""
    param_dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of weights and activations; the optimizer's copy is fp32."""
    attn_implementation: Attention = "sdpa"
    """Attention kernel, by its name in transformers."""
    load_in_4bit: bool = False
    """Hold the frozen base of the adapters in 4 bits (QLoRA)."""
    lora: Lora = field(default_factory=Lora)
    overlap_comm: bool = False
    """Reduce gradients while the backward pass goes on (CUDA only)."""
    timeout: Seconds = 300.0
    """Seconds before a collective that hangs ends the run."""


@dataclass(frozen=True)
class VLLM(Section):
    """The sampling engines."""

    num_engines: Devices = 1
    """Engines, which share the prompts of an iteration."""
    tensor_parallel_size: Devices = 1
    """GPUs per engine."""
    gpu_memory_utilization: PositiveShare = 0.9
    """Share of a GPU's memory that an engine may take, weights and cache."""
    enforce_eager: bool = False
    """Start sooner and sample slower: no CUDA graphs."""
    enable_prefix_caching: bool = True
    """Compute the prompt once for all its responses."""
    enable_sleep: bool = True
    """Free the engine's GPU memory while others work (colocated CUDA only; no-op elsewhere)."""
    sync_backend: Literal["auto", "object_store", "nccl", "ipc"] = "auto"
    """How new weights reach the engines; auto goes by where they are."""
    cpu_kvcache_gib: Annotated[int, Range(least=1, most=65536)] = 1
    """Memory of an engine's cache on a CPU, in GiB."""
    logprob_tolerance: Positive | None = None
    """Largest mean |engine - trainer| log-prob per token; unset: 1e-3 in fp32, 0.1 in bf16."""


@dataclass(frozen=True)
class Cluster(Section):
    """The Ray cluster."""

    address: str | None = None
    """Ray cluster to join; unset starts a local one on loopback."""
    num_cpus: Count | None = None
    """CPUs of a local cluster; all when unset."""
    object_store_gib: Annotated[float, Range(least=0.1, most=65536)] | None = None
    """Memory of a local cluster's object store, in GiB; Ray's choice when unset."""
    actor_timeout: Seconds = 1800.0
    """Seconds that one call on an actor may take."""
    start_timeout: Seconds = 300.0
    """Seconds that the actors may take to start."""


@dataclass(frozen=True)
class Ckpt(Section):
    """The run folder and what is kept in it."""

    output_dir: str | None = None
    """The run folder; runs/<method>-<date and time> when unset."""
    save_steps: Every = -1
    """Checkpoint every so many iterations (online) or optimizer steps (offline); -1: at the end."""
    max_num: Count = 3
    """Checkpoints that are kept, the newest."""
    load_enable: bool = False
    """Go on from the newest checkpoint of the run folder."""
    best_metric_key: Annotated[str, MayBeEmpty()] = ""
    """Metric (higher is better) that names the `best` export; the reward online, if unset."""


@dataclass(frozen=True)
class WandB(Section):
    """Weights & Biases; the key is read from WANDB_API_KEY."""

    enable: bool = False
    """Log to Weights & Biases."""
    project: str = "rto"
    """Project that the run is filed under."""
    run_name: str | None = None
    """Name of the run; the run folder's when unset."""
    group: str | None = None
    """Group of runs."""


@dataclass(frozen=True)
class Logger(Section):
    """Where metrics go beside metrics.jsonl."""

    logging_steps: Count = 1
    """TensorBoard and W&B get every so many-th iteration or step."""
    tensorboard: bool = True
    """Write event files for TensorBoard into the run folder."""
    wandb: WandB = field(default_factory=WandB)


@dataclass(frozen=True)
class Generate(Section):
    """`rto generate`: the RTO authors' sampling settings for AlpacaEval 2."""

    model: str | None = None
    """A run folder (its `last` export), a Hugging Face directory or a hub id."""
    prompt: list[Annotated[str, MayBeEmpty()]] = field(default_factory=list)
    """Give the flag once per prompt. The tokenizer's chat template, if it has one, is applied."""
    temperature: Annotated[float, Range(least=0, most=100)] = 0.7
    """Sampling temperature; 0 takes the likeliest token."""
    top_p: PositiveShare = 1.0
    """Sample from the likeliest tokens that have this probability in all; 1 for all tokens."""
    max_new_tokens: Count = 4096
    """Longest response; what the prompt leaves of the model's context, where that is less."""
    num_samples: Count = 1
    """Responses per prompt."""
