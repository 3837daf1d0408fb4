"""The sections of a run's configuration that say what it runs on and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rto.sections import require


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
    param_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Of weights and activations; auto: bf16 on GPUs and CPUs that compute in it, else fp32."""
    attn_implementation: str = "sdpa"
    load_in_4bit: bool = False
    lora: Lora = field(default_factory=Lora)
    overlap_comm: bool = False
    timeout: float = 300.0
    """Seconds before a collective that hangs ends the run."""

    @property
    def dtype(self) -> Literal["bf16", "fp32"]:
        """``param_dtype`` of a run that has been prepared (`rto.models.device.with_dtype`)."""
        if self.param_dtype == "auto":
            raise RuntimeError("ds.param_dtype is auto: this configuration was not prepared")
        return self.param_dtype


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
class Ckpt:
    output_dir: str | None = None
    """The run folder; runs/<method>-<date and time> when unset."""
    save_steps: int = -1
    """Checkpoint every so many iterations (online) or optimizer steps (offline); -1: at the end."""
    max_num: int = 3
    load_enable: bool = False
    """Go on from the newest checkpoint of the run folder."""
    allow: list[str] = field(default_factory=list)
    """Settings, by dotted name, that may differ from those that the checkpoint was made with."""
    best_metric_key: str = ""
    """Metric that names the `best` export; if unset, the reward online and the stage's own figure
    on held-out rows offline, where eval.steps is set."""
    best_metric_mode: Literal["auto", "max", "min"] = "auto"
    """Which values of it are better; auto: lower ones of a loss or an nll, else higher ones."""


@dataclass(frozen=True)
class Eval:
    """Offline stages: held-out rows (data.eval_dataset, data.eval_ratio) judged while training."""

    steps: int = -1
    """Evaluate every so many optimizer steps, and choose `best` by it; -1: at the end alone."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a new best; unset: never."""

    def __post_init__(self) -> None:
        require(
            self.steps == -1 or self.steps >= 1, f"eval.steps is {self.steps}: must be 1+, or -1"
        )
        patience = self.patience
        require(patience is None or patience >= 1, f"eval.patience is {patience}: must be 1+")
        require(
            patience is None or self.steps >= 1,
            f"eval.patience is {patience} and eval.steps is not set: it counts evaluations, "
            "set eval.steps",
        )


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
    """The key is that of `wandb login`, or in WANDB_API_KEY."""


@dataclass(frozen=True)
class Decoding:
    """How a response is drawn. Penalties act first, then temperature, min_p, top_k and top_p."""

    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus: the fewest likely tokens that reach this probability; 1 keeps all."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Only tokens at least this share as likely as the likeliest one; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides the positive logits, and multiplies the negative ones, of tokens that a decoder has
    read: prompt and response, or the response alone where an encoder reads the prompt."""
    no_repeat_ngram_size: int = 0
    """No n tokens of a response in a row occur twice; 0 allows it. Encoder-decoder models only."""
    max_new_tokens: int = 1024
    """Longest response; what the prompt leaves of the model's context, where that is less."""
    stop: list[str] = field(default_factory=list)
    """Texts that end a response and are no part of it. Give the flag once per text."""

    def check(self, prefix: str) -> None:
        """``prefix`` is what stands before the names where the user gave them.

        Raises:
            UserError: one line with the setting, its value and its range.
        """

        def within(name: str, ok: Callable[[Any], bool], allowed: str) -> None:
            value = vars(self)[name]
            require(ok(value), f"{prefix}{name} is {value!r:.60}: {allowed}")

        within("temperature", lambda x: x == 0 or 0.01 <= x <= 100, "0 (greedy), or 0.01 to 100")
        within("top_p", lambda x: 0 < x <= 1, "must be in (0, 1]")
        within("top_k", lambda x: x >= 0, "must be 0 (off) or more")
        within("min_p", lambda x: 0 <= x <= 1, "must be in [0, 1]")
        within("repetition_penalty", lambda x: 0.01 <= x <= 100, "1 (off), or 0.01 to 100")
        within("no_repeat_ngram_size", lambda x: x >= 0, "must be 0 (off) or more")
        within("max_new_tokens", lambda x: x >= 1, "must be 1 or more")
        within("stop", all, "a text to stop at must not be empty")
        self._check_greedy(prefix)

    def _check_greedy(self, prefix: str) -> None:
        for name, off in (("top_p", 1), ("top_k", 0), ("min_p", 0)):
            value = vars(self)[name]
            require(
                self.temperature > 0 or value == off,
                f"{prefix}{name} is {value} and {prefix}temperature 0: greedy decoding takes the "
                "likeliest token whatever the others are; leave one of the two out",
            )


@dataclass(frozen=True)
class Generate(Decoding):
    """`rto generate`: the RTO authors' sampling settings for AlpacaEval 2."""

    model: str | None = None
    """A run folder (its `last` export), a Hugging Face directory or a hub id."""
    prompt: list[str] = field(default_factory=list)
    """Give the flag once per prompt. The tokenizer's chat template, if it has one, is applied."""
    prompts: str | None = None
    """A file, a saved dataset or a hub id with prompts, read as `rto eval` reads them."""
    prompt_key: str | None = None
    """The column of the prompts; unset, the columns' names tell it."""
    out: str | None = None
    """JSON-lines file for the responses, which are then not printed; never overwritten."""
    max_new_tokens: int = 4096
    num_samples: int = 1
    """Responses per prompt."""

    def __post_init__(self) -> None:
        self.check("generate.")
        num = self.num_samples
        require(num >= 1, f"generate.num_samples is {num}: must be 1 or more")
        require(
            num == 1 or self.temperature > 0,
            f"generate.num_samples is {num} and generate.temperature 0: greedy decoding gives the "
            "same response every time; leave one of the two out",
        )
        require(
            not (self.prompt and self.prompts),
            "generate.prompt and generate.prompts are both given: give one",
        )
        require(
            self.prompts is not None or self.prompt_key is None,
            "generate.prompt_key names a column of generate.prompts, which is not given",
        )
