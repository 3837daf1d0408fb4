"""The sections of a run's configuration that say what it runs on and what it leaves behind."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rto.sections.ranges import (
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
    Share,
    require,
)

Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://.+")
_GPUS = re.compile(
    r"(?:(?P<nodes>[1-9]\d{0,3})x)?(?P<count>[1-9]\d{0,4})x(?P<name>[A-Za-z][A-Za-z0-9]{0,15})"
    r"(?:-(?P<gib>[1-9]\d{0,3}))?"
)
_NODES = re.compile(r"(?P<first>[1-9]\d{0,3})(?:\.\.(?P<last>[1-9]\d{0,3}))?")


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
    param_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Of weights and activations; auto: bf16 on GPUs and CPUs that compute in it, else fp32."""
    attn_implementation: Attention = "sdpa"
    """Attention kernel, by its name in transformers."""
    load_in_4bit: bool = False
    """Hold the frozen base of the adapters in 4 bits (QLoRA)."""
    lora: Lora = field(default_factory=Lora)
    overlap_comm: bool = False
    """Reduce gradients while the backward pass goes on (CUDA only)."""
    sequence_parallel_size: Devices = 1
    """Ranks that read the same rows, each a part of their tokens, for contexts that do not fit on
    one GPU (Ulysses)."""
    config: str | None = None
    """A DeepSpeed JSON file with more settings: bucket sizes, stage3_*. It is read on the machine
    of the command; what says otherwise than the settings here is refused."""
    timeout: Seconds = 300.0
    """Seconds before a collective that hangs ends the run."""

    @property
    def dtype(self) -> Literal["bf16", "fp32"]:
        """``param_dtype`` of a run that has been prepared (`rto.models.device.with_dtype`)."""
        if self.param_dtype == "auto":
            raise RuntimeError("ds.param_dtype is auto: this configuration was not prepared")
        return self.param_dtype

    def says(self) -> str:
        """The line that a run says of its attention; empty for the default."""
        if self.attn_implementation == "sdpa":
            return ""
        return (
            f"ds.attn_implementation {self.attn_implementation}: rows are padded; with sdpa, which "
            "has a FlashAttention kernel too, most decoders read them without padding"
        )


Beside = Literal["nothing", "scorers", "ranks"]
"""What else computes on an engine's GPUs."""
MEMORY_SHARE: dict[Beside, float] = {"nothing": 0.9, "scorers": 0.5, "ranks": 0.4}
"""Of a GPU, what an engine may take where ``vllm.gpu_memory_utilization`` is unset. Beside ranks
their weights and optimizer states stay while it samples; the cache of an 8B model has room."""


@dataclass(frozen=True)
class VLLM(Section):
    """The sampling engines."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """What samples: auto takes vLLM where it is installed and serves the model, which has to be
    decoder-only, else transformers."""
    num_engines: Devices = 1
    """Engines, which share the prompts of an iteration."""
    tensor_parallel_size: Devices = 1
    """GPUs per engine."""
    gpu_memory_utilization: PositiveShare | None = None
    """Share of a GPU's memory that an engine may take, weights and cache. Unset: 0.9 for an engine
    that has its GPUs to itself, 0.4 where it shares them with ranks (`train.colocate_all`), 0.5
    where `rto eval` and `rto compare` have models that score beside it."""
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

    def memory_share(self, beside: Beside) -> float:
        """What an engine may take of a GPU, unless the user says otherwise."""
        given = self.gpu_memory_utilization
        return MEMORY_SHARE[beside] if given is None else given


LOGPROB_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""By dtype, what passes as rounding where ``vllm.logprob_tolerance`` is unset."""


START_SECONDS = {"cpu": 300.0, "cuda": 1200.0}
"""How long actors may take to start where ``ray.start_timeout`` is unset."""


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
    """Seconds that a call may take which computes on a batch: generate, score, update, save, load,
    export. A call that moves weights has 600, one that only tells something 120. They end a call
    that computes without end: an actor that is dead is found in seconds, one that is stopped in
    half a minute, a rank that does not come to a collective in `ds.timeout`."""
    start_timeout: Seconds | None = None
    """Seconds that the actors may take to start, once there is room for them and their models are
    downloaded. Unset: 300 on CPUs, 1200 on GPUs, where models are large and vLLM compiles."""

    max_restarts: CountOrZero = 3
    """How often a run may start its actors anew, from the newest checkpoint, because one of them
    died; 0: the first death ends it."""

    def start_seconds(self, device: Literal["cpu", "cuda"]) -> float:
        given = self.start_timeout
        return START_SECONDS[device] if given is None else given


@dataclass(frozen=True)
class Planned(Section):
    """`rto plan` and `--dry_run` for a machine that is somewhere else."""

    gpus: str | None = None
    """GPUs to plan for where there are none, as NODESxCOUNTxNAME-GIB, without NODES for one node
    and without GIB for a card that is known: 8xA100-80, 1xH100, 2x8xH200."""
    host_gib: Annotated[int, Range(least=1, most=65536)] | None = None
    """Memory of each of its nodes, in GiB; what is usual beside such GPUs when unset."""
    nodes: str | None = None
    """Print how the run grows with such nodes: a number, or a range as 1..128."""
    prompt_tokens: Count | None = None
    """Mean prompt, for the time of an iteration; a quarter of the longest when unset."""
    response_tokens: Count | None = None
    """Mean response, for the time of an iteration; two fifths of the longest when unset."""
    from_run: str | None = None
    """The run folder of a run on such GPUs, whose measured seconds set the pace of each stage."""

    @property
    def num_gpus(self) -> int:
        return (self.num_nodes or 1) * self.per_node

    @property
    def num_nodes(self) -> int | None:
        """As they are written; None where they are not."""
        nodes = self._part("nodes")
        return int(nodes) if nodes else None

    @property
    def per_node(self) -> int:
        """GPUs of a node, or of all where no number of nodes is written."""
        return int(self._part("count") or 0)

    @property
    def card(self) -> str:
        return self._part("name") or ""

    @property
    def gib(self) -> int | None:
        """Memory of a card as it is written."""
        gib = self._part("gib")
        return int(gib) if gib else None

    def _part(self, name: str) -> str | None:
        match = _GPUS.fullmatch(self.gpus or "")
        return match[name] if match else None

    def check(self, prefix: str) -> None:
        require(
            self.gpus is None or self.num_gpus >= 1,
            f"{prefix}gpus is {self.gpus!r}: write NODESxCOUNTxNAME-GIB, as in 8xA100-80, 1xH100 "
            "or 2x8xH200",
        )
        require(
            self.nodes is None or bool(self.node_counts),
            f"{prefix}nodes is {self.nodes!r}: write a number of nodes from 1 to 9999, or a range, "
            "as in 1..128",
        )
        for name in ("nodes", "from_run"):
            require(
                getattr(self, name) is None or self.gpus is not None,
                f"{prefix}{name} is set and {prefix}gpus is not: say which GPUs a node has",
            )

    @property
    def node_counts(self) -> tuple[int, ...]:
        """The numbers of ``nodes``: of a range its ends, and the powers of two between them."""
        match = _NODES.fullmatch(self.nodes or "")
        if match is None:
            return ()
        first, last = int(match["first"]), int(match["last"] or match["first"])
        between = {2**power for power in range(14) if first < 2**power < last}
        return tuple(sorted({first, last} | between)) if first <= last else ()


@dataclass(frozen=True)
class Ckpt(Section):
    """The run folder and what is kept in it."""

    output_dir: str | None = None
    """The run folder; runs/<method>-<date and time> when unset."""
    save_steps: Every = -1
    """Checkpoint every so many iterations (online) or optimizer steps (offline); -1: at the end."""
    max_num: Count = 3
    """Checkpoints that are kept, the newest."""
    async_write: bool = False
    """Train on while a checkpoint is written: it is copied to host memory first, which must have
    room for weights and optimizer states once more."""
    load_enable: bool = False
    """Go on from the newest checkpoint of the run folder."""
    journal: bool = True
    """Write down what was sampled and how it was rewarded, so that a run that goes on repeats none
    of it."""
    grace: Seconds = 20.0
    """Seconds that an iteration under way may take to end, once a signal (SIGTERM, Ctrl-C) asks the
    run to: its state is saved then. After them the run ends with the newest checkpoint."""
    mirror: str | None = None
    """URL, such as s3://bucket/run, to which checkpoints, exports and metrics are copied while the
    run goes on; with load_enable, a newer checkpoint is fetched from there first."""
    allow: list[str] = field(default_factory=list)
    """Settings, by dotted name, that may differ from those that the checkpoint was made with."""
    best_metric_key: Annotated[str, MayBeEmpty()] = ""
    """Metric that names the `best` export; if unset, the reward online and the stage's own figure
    on held-out rows offline, where eval.steps is set."""
    best_metric_mode: Literal["auto", "max", "min"] = "auto"
    """Which values of it are better; auto: lower ones of a loss or an nll, else higher ones."""

    def check(self, prefix: str) -> None:
        require(
            self.mirror is None or _URL.fullmatch(self.mirror) is not None,
            f"{prefix}mirror is {self.mirror!r}: write a URL, as in s3://bucket/run",
        )


@dataclass(frozen=True)
class Eval(Section):
    """Offline stages: held-out rows (data.eval_dataset, data.eval_ratio) judged while training."""

    steps: Every = -1
    """Evaluate every so many optimizer steps, and choose `best` by it; -1: at the end alone."""
    patience: Count | None = None
    """Stop after so many evaluations in a row without a new best; unset: never."""

    def check(self, prefix: str) -> None:
        require(
            self.patience is None or self.steps >= 1,
            f"{prefix}patience is {self.patience} and {prefix}steps is not set: it counts "
            f"evaluations, set {prefix}steps",
        )


@dataclass(frozen=True)
class WandB(Section):
    """Weights & Biases; the key is that of `wandb login`, or in WANDB_API_KEY."""

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
class Decoding(Section):
    """How a response is drawn. Penalties act first, then temperature, min_p, top_k and top_p."""

    temperature: Annotated[float, Range(least=0.01, most=100, also=0)] = 0.7
    """Divides the logits; 0 is greedy."""
    top_p: PositiveShare = 1.0
    """Nucleus: the fewest likely tokens that reach this probability; 1 keeps all."""
    top_k: CountOrZero = 0
    """Only the k likeliest tokens; 0 keeps all."""
    min_p: Share = 0.0
    """Only tokens at least this share as likely as the likeliest one; 0 keeps all."""
    repetition_penalty: Annotated[float, Range(least=0.01, most=100)] = 1.0
    """Divides the positive logits, and multiplies the negative ones, of tokens that a decoder has
    read: prompt and response, or the response alone where an encoder reads the prompt."""
    no_repeat_ngram_size: CountOrZero = 0
    """No n tokens of a response in a row occur twice; 0 allows it. vLLM has no such setting."""
    max_new_tokens: Count = 1024
    """Longest response; what the prompt leaves of the model's context, where that is less."""
    stop: list[str] = field(default_factory=list)
    """Texts that end a response and are no part of it. Give the flag once per text."""

    def check(self, prefix: str) -> None:
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
    prompt: list[Annotated[str, MayBeEmpty()]] = field(default_factory=list)
    """Give the flag once per prompt. The tokenizer's chat template, if it has one, is applied."""
    prompts: str | None = None
    """A file, a saved dataset or a hub id with prompts, read as `rto eval` reads them."""
    prompt_key: str | None = None
    """The column of the prompts; unset, the columns' names tell it."""
    out: str | None = None
    """JSON-lines file for the responses, which are then not printed; never overwritten."""
    max_new_tokens: Count = 4096
    num_samples: Count = 1
    """Responses per prompt."""

    def check(self, prefix: str) -> None:
        super().check(prefix)
        num = self.num_samples
        require(
            num == 1 or self.temperature > 0,
            f"{prefix}num_samples is {num} and {prefix}temperature 0: greedy decoding gives the "
            "same response every time; leave one of the two out",
        )
        require(
            not (self.prompt and self.prompts),
            f"{prefix}prompt and {prefix}prompts are both given: give one",
        )
        require(
            self.prompts is not None or self.prompt_key is None,
            f"{prefix}prompt_key names a column of {prefix}prompts, which is not given",
        )
