"""The sections of a run's configuration: frozen dataclasses, one default and one owner per field.

Dotted names follow OpenRLHF 0.11 where it has a flag for the same thing. Each section checks its
own fields; rules across sections live in ``rto.config.RunConfig``. What is learned, how and from
what is here; the methods' own knobs are in ``rto.sections_methods``, what it runs on is in
``rto.sections_runtime``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rto.errors import UserError


def require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


LrScheduler = Literal[
    "cosine_with_min_lr",
    "cosine",
    "cosine_with_restarts",
    "linear",
    "polynomial",
    "inverse_sqrt",
    "constant",
    "constant_with_warmup",
]
"""The schedules of transformers.get_scheduler that need no more than the numbers of steps."""


@dataclass(frozen=True)
class Adam:
    lr: float = 1e-6
    """Learning rate at the end of the warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"adam.lr is {self.lr}: must be positive")


@dataclass(frozen=True)
class Trained:
    """What the policy and the critic have in common."""

    model_name_or_path: str | None = None
    """Hub id or directory of the model to start from."""
    adam: Adam = field(default_factory=Adam)
    lr_scheduler: LrScheduler = "cosine_with_min_lr"
    lr_warmup_ratio: float = 0.03
    """Share of the run's optimizer steps spent warming up."""
    min_lr_ratio: float = 0.1
    """Floor of the cosine schedule, as a share of adam.lr."""
    max_norm: float = 1.0
    """Gradient clipping by global norm; 0 switches it off."""
    gradient_checkpointing_enable: bool = False
    num_nodes: int = 1
    num_gpus_per_node: int = 1
    """Data-parallel ranks per node: one GPU each, or one process each on a CPU machine."""

    @property
    def num_ranks(self) -> int:
        return self.num_nodes * self.num_gpus_per_node

    def __post_init__(self) -> None:
        require(self.num_ranks >= 1, f"num_nodes x num_gpus_per_node is {self.num_ranks}: need 1+")
        require(0 <= self.lr_warmup_ratio <= 1, f"lr_warmup_ratio is {self.lr_warmup_ratio}: 0..1")


@dataclass(frozen=True)
class Actor(Trained):
    """The policy: what SFT, DPO, PPO and RTO train."""

    eps_clip: float = 0.2
    """PPO clip range, symmetric."""
    eps_clip_low_high: tuple[float, float] | None = None
    """Lower and upper clip range; replaces eps_clip when given."""
    dual_clip: float | None = None
    """Bound of the loss for negative advantages (Ye et al. 2020); above 1."""
    entropy_coef: float | None = None
    """Entropy bonus; 0 logs the entropy without using it; unset computes none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.eps_clip < 1, f"actor.eps_clip is {self.eps_clip}: must be in (0, 1)")
        bound = self.dual_clip
        require(bound is None or bound > 1, f"actor.dual_clip is {bound}: must be above 1")

    @property
    def clip_low_high(self) -> tuple[float, float]:
        return self.eps_clip_low_high or (self.eps_clip, self.eps_clip)


@dataclass(frozen=True)
class Critic(Trained):
    adam: Adam = field(default_factory=lambda: Adam(lr=9e-6))
    value_clip: float = 0.5
    """Clip range of the value around its rollout-time estimate (RTO's own code: 0.2)."""
    freezing_steps: int = -1
    """Train only the critic for this many first iterations."""
    save_value_network: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.value_clip > 0, f"critic.value_clip is {self.value_clip}: must be positive")


@dataclass(frozen=True)
class Frozen:
    """The actors that hold the frozen models: reference, DPO models, reward models."""

    model_name_or_path: str | None = None
    """KL reference; the policy's starting point when unset."""
    num_nodes: int = 1
    num_gpus_per_node: int = 1
    """Scoring replicas per node; each holds every frozen model and scores a part of the batch."""
    offload: bool = False
    """Keep frozen models in host memory and move them to the device for their turn."""

    @property
    def num_replicas(self) -> int:
        return self.num_nodes * self.num_gpus_per_node


@dataclass(frozen=True)
class Reward:
    """Where the sentence reward comes from. Several sources add up with their weights."""

    model_name_or_path: list[str] = field(default_factory=list)
    """Reward models: sequence-classification checkpoints with one label (head `score`)."""
    func_path: str | None = None
    """A Python file with reward_func(queries, prompts, labels) -> one number per response."""
    remote_url: list[str] = field(default_factory=list)
    """Reward servers: POST {query, prompts, labels} -> {rewards}."""
    weights: list[float] | None = None
    """One weight per source, in the order models, function, urls; default 1 each."""
    coef: float = 1.0
    """beta_3 of the RTO paper: factor of the summed, normalised and clipped reward."""
    normalize_enable: bool = False
    """Use (r - mean) / std with the constants in the reward model's config."""
    clip_range: tuple[float, float] = (-10.0, 10.0)
    remote_timeout: float = 120.0
    """Seconds that one request to a reward server may take in all, retries included."""
    remote_batch_size: int = 64
    remote_token_env: str = "RTO_REWARD_TOKEN"
    """Environment variable that holds the reward server's bearer token."""

    @property
    def num_sources(self) -> int:
        return len(self.model_name_or_path) + len(self.remote_url) + bool(self.func_path)

    def __post_init__(self) -> None:
        low, high = self.clip_range
        require(low < high, f"reward.clip_range is {self.clip_range}: needs low < high")
        got = len(self.weights or [])
        require(
            self.weights is None or got == self.num_sources,
            f"reward.weights has {got} entries for {self.num_sources} sources: give one each",
        )


@dataclass(frozen=True)
class DPOModel:
    """The DPO policy that RTO's token reward reads."""

    model_name_or_path: str | None = None
    ref_model_name_or_path: str | None = None
    """The model that DPO was trained from; the KL reference when unset."""


@dataclass(frozen=True)
class RolloutSection:
    batch_size: int = 1024
    """Prompts per iteration."""
    n_samples_per_prompt: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    """Longest response; half of data.max_len when unset."""
    max_tokens_per_gpu: int = 16384
    """Token budget of one scoring forward; padding counts, where the model reads any."""

    @property
    def num_sequences(self) -> int:
        return self.batch_size * self.n_samples_per_prompt

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"rollout.batch_size is {self.batch_size}: must be 1+")
        k = self.n_samples_per_prompt
        require(k >= 1, f"rollout.n_samples_per_prompt is {k}: must be 1+")
        require(
            self.temperature > 0, f"rollout.temperature is {self.temperature}: must be positive"
        )
        require(0 < self.top_p <= 1, f"rollout.top_p is {self.top_p}: must be in (0, 1]")


@dataclass(frozen=True)
class Train:
    batch_size: int = 128
    """Sequences per optimizer step, over all ranks."""
    micro_batch_size: int | None = None
    """Sequences per forward on one rank; unset lets max_tokens_per_gpu decide."""
    max_tokens_per_gpu: int = 16384
    """Token budget of one training forward on one rank; padding counts, where there is any."""
    max_epochs: int = 1
    """Passes over a rollout (online) or over the data (offline stages)."""
    num_episodes: int = 1
    """Passes over the prompts."""
    max_steps: int | None = None
    """Stop after this many iterations (online) or optimizer steps (offline)."""
    seed: int = 42
    enable_ema: bool = False
    ema_beta: float = 0.992
    colocate_all: bool = True
    """Share the same GPUs between rollout, scoring, critic and policy."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    self_check: bool = True
    """Check the assembled pipeline before the first update."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"train.batch_size is {self.batch_size}: must be 1+")
        micro = self.micro_batch_size
        require(micro is None or micro >= 1, f"train.micro_batch_size is {micro}: must be 1+")
        require(self.max_steps is None or self.max_steps >= 1, "train.max_steps must be 1 or more")


class InputTemplate(NamedTuple):
    """A prompt and its response as text; ``{}`` is replaced. An encoder-decoder model's response
    is a text of its own and stays as it is."""

    prompt: str
    response: str


INPUT_TEMPLATES = {"rpo_authors": InputTemplate("prompt : {} [SEP] response :", " {}")}
"""By the names that data.input_template knows. The authors of RPO and reward_aware write a row as
``prompt : q [SEP] response : r``; [SEP] is ordinary text to most tokenizers."""


@dataclass(frozen=True)
class Data:
    prompt_dataset: list[str] = field(default_factory=list)
    """Prompts for online training: hub ids, files (jsonl, json, csv, parquet), saved datasets."""
    prompt_probs: list[float] | None = None
    """Mixing weights of several datasets; concatenation when unset."""
    prompt_split: str = "train"
    dataset: list[str] = field(default_factory=list)
    """Rows for the offline stages, in the same forms."""
    dataset_probs: list[float] | None = None
    dataset_split: str = "train"
    eval_dataset: str | None = None
    """Held-out rows; a share of the training rows is split off when unset."""
    eval_ratio: float = 0.05
    feedback: str | None = None
    """Rows of {prompt, responses: [{text, reward}]}, or of {prompt, response, reward}: read as
    rated responses, prompts, SFT rows or pairs."""
    layout: str | None = None
    """Layout of the rated responses, one of docs/data.md; their columns tell it when unset."""
    columns: list[str] = field(default_factory=list)
    """Columns by other names, as prompt=question,response=answer: on the left what rto reads."""
    config_name: str | None = None
    """Configuration (subset) of data sets of the hub that have several."""
    on_few_responses: Literal["filter", "error"] = "filter"
    """A prompt with fewer rated responses than the method needs."""
    reward_scaling: Literal["auto", "none", "zscore", "within_prompt"] = "auto"
    """Of stored rewards: as the method has it, unchanged, (r - mean) / std over all training rows,
    or r / (std of the rewards less their prompt's mean)."""
    cache_dir: str | None = None
    """Where reference log-probs of stored rows are kept, and token ids while a run lasts;
    ~/.cache/rto when unset."""
    pretrain_dataset: str | None = None
    """Text for the ptx loss."""
    input_key: str = "input"
    output_key: str | None = None
    """Response column for SFT; unset means input_key holds the whole conversation."""
    prompt_key: str | None = None
    """Prompt column of pairs; unset means chosen and rejected are whole conversations."""
    chosen_key: str = "chosen"
    rejected_key: str = "rejected"
    label_key: str | None = None
    input_template: str | None = None
    """A text with one {} for the prompt, or the name of a published format: rpo_authors."""
    apply_chat_template: bool = False
    """Render prompts and responses with the tokenizer's chat template."""
    chat_template: str | None = None
    """Which chat template: the name of one that the tokenizer has, or a file with a jinja
    template."""
    max_len: int = 2048
    """Longest prompt plus response, in tokens."""
    max_prompt_len: int | None = None
    """Longest prompt, in tokens; what data.max_len leaves when unset. A response of an
    encoder-decoder model then has data.max_len less this many, however short its prompt is."""
    max_samples: int = 100_000_000
    on_long_prompt: Literal["filter", "error"] = "filter"

    def __post_init__(self) -> None:
        for name, probs, sets in (
            ("prompt_probs", self.prompt_probs, self.prompt_dataset),
            ("dataset_probs", self.dataset_probs, self.dataset),
        ):
            got = len(probs or [])
            message = f"data.{name} has {got} entries for {len(sets)} datasets: one each"
            require(probs is None or got == len(sets), message)
        require(self.max_len >= 2, f"data.max_len is {self.max_len}: must be 2+")
        _check_columns(self.columns)
        prompt = self.max_prompt_len
        require(
            prompt is None or 1 <= prompt < self.max_len,
            f"data.max_prompt_len is {prompt}: must be 1+ and less than data.max_len "
            f"{self.max_len}, which counts prompt and response",
        )
        template = self.input_template
        require(
            template is None or template in INPUT_TEMPLATES or "{}" in template,
            f"data.input_template is {template!r}: needs one {{}} for the prompt, or is one of "
            f"{', '.join(INPUT_TEMPLATES)}",
        )


def _check_columns(columns: list[str]) -> None:
    """New names and old names of columns: each is given, and none stands twice."""
    pairs = [column.partition("=") for column in columns]
    for (new, _, old), column in zip(pairs, columns, strict=True):
        require(
            bool(new and old), f"data.columns has {column!r}: write NEW=OLD, as prompt=question"
        )
    for side in (0, 2):
        names = [pair[side] for pair in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f"data.columns names {twice!r} twice: give each column one name")
