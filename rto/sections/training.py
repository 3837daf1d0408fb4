"""The sections of a run's configuration: frozen dataclasses, one default and one owner per field.

Dotted names follow OpenRLHF 0.11 where it has a flag for the same thing. A field's type holds its
range (``rto.sections.ranges``). ``check`` of a section holds the rules across its fields; those
across sections are in ``RunConfig``, which checks all of them when it is made. What is learned, how
and from what is here, the methods own their settings (``rto.sections.methods``), and what a run
needs of its machines is in ``rto.sections.runtime``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rto.sections.ranges import (
    Count,
    CountOrZero,
    Decay,
    Devices,
    NotNegative,
    Number,
    Positive,
    PositiveShare,
    Range,
    Seconds,
    Section,
    Seed,
    Share,
    require,
)

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
class Adam(Section):
    """AdamW, DeepSpeed's implementation."""

    lr: PositiveShare = 1e-6
    """Learning rate at the end of the warm-up."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of the running means of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the root of the second mean."""
    weight_decay: Share = 0.0
    """Decoupled weight decay, per step and unit of learning rate; biases and norms have none."""


@dataclass(frozen=True)
class Trained(Section):
    """What the policy and the critic have in common."""

    model_name_or_path: str | None = None
    """Hub id or directory of the model to start from."""
    adam: Adam = field(default_factory=Adam)
    lr_scheduler: LrScheduler = "cosine_with_min_lr"
    """Schedule of the learning rate after the warm-up, by its name in transformers."""
    lr_warmup_ratio: Share = 0.03
    """Share of the run's optimizer steps spent warming up."""
    min_lr_ratio: Share = 0.1
    """Floor of the cosine schedule, as a share of adam.lr."""
    max_norm: NotNegative = 1.0
    """Gradient clipping by global norm; 0 switches it off."""
    gradient_checkpointing_enable: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    num_nodes: Devices = 1
    """Nodes that the ranks are spread over."""
    num_gpus_per_node: Devices = 1
    """Data-parallel ranks per node: one GPU each, or one process each on a CPU machine."""

    @property
    def num_ranks(self) -> int:
        return self.num_nodes * self.num_gpus_per_node


@dataclass(frozen=True)
class Actor(Trained):
    """The policy: what SFT, DPO, PPO and RTO train."""


@dataclass(frozen=True)
class Critic(Trained):
    """The value model of the methods that train one."""

    adam: Adam = field(default_factory=lambda: Adam(lr=9e-6))
    freezing_steps: Annotated[int, Range(least=-1)] = -1
    """Train only the critic for this many first iterations; -1 and 0 for none."""
    save_value_network: bool = False
    """Export the critic beside the policy, as last_critic and best_critic."""


@dataclass(frozen=True)
class Frozen(Section):
    """The actors that hold the frozen models: reference, DPO models, reward models."""

    model_name_or_path: str | None = None
    """KL reference; the policy's starting point when unset."""
    num_nodes: Devices = 1
    """Nodes that the scoring replicas are spread over."""
    num_gpus_per_node: Devices = 1
    """Scoring replicas per node; each holds every frozen model and scores a part of the batch."""
    offload: bool = False
    """Keep frozen models in host memory and move them to the device for their turn."""

    @property
    def num_replicas(self) -> int:
        return self.num_nodes * self.num_gpus_per_node


@dataclass(frozen=True)
class Reward(Section):
    """Where the sentence reward comes from. Several sources add up with their weights."""

    model_name_or_path: list[str] = field(default_factory=list)
    """Reward models: sequence-classification checkpoints with one label (head `score`)."""
    func_path: str | None = None
    """A Python file with reward_func(queries, prompts, labels) -> one number per response."""
    func_timeout: Seconds = 600.0
    """Seconds that the function may take for one call, and its file to load."""
    func_memory_gib: Annotated[float, Range(least=0.1, most=65536)] | None = None
    """GiB of address space that the function's process may have; null for no limit."""
    remote_url: list[str] = field(default_factory=list)
    """Reward servers: POST {query, prompts, labels} -> {rewards}."""
    weights: list[Number] | None = None
    """One weight per source, in the order models, function, urls; default 1 each."""
    normalize_enable: bool = False
    """Use (r - mean) / std with the constants in the reward model's config."""
    remote_timeout: Seconds = 120.0
    """Seconds that one request to a reward server may take in all, retries included."""
    remote_batch_size: Count = 64
    """Responses per request to a reward server."""
    remote_concurrency: Annotated[int, Range(least=1, most=1024)] = 8
    """Requests that a reward server is sent at once."""
    remote_token_env: str = "RTO_REWARD_TOKEN"
    """Environment variable that holds the reward server's bearer token."""
    on_failure: Literal["stop", "drop_group"] = "stop"
    """When a request to a reward server fails for good: stop, or leave out the prompts that it
    was about, with all their responses."""

    @property
    def num_sources(self) -> int:
        return len(self.model_name_or_path) + len(self.remote_url) + bool(self.func_path)

    def check(self, prefix: str) -> None:
        got = len(self.weights or [])
        require(
            self.weights is None or got == self.num_sources,
            f"{prefix}weights has {got} entries for {self.num_sources} sources: give one each",
        )
        require(
            self.on_failure == "stop" or bool(self.remote_url),
            f"{prefix}on_failure is {self.on_failure}: it is about reward servers, give "
            f"{prefix}remote_url",
        )


@dataclass(frozen=True)
class DPOModel(Section):
    """The DPO policy that RTO's token reward reads."""

    model_name_or_path: str | None = None
    """Hub id or directory of the DPO policy, as `rto dpo` leaves it."""
    ref_model_name_or_path: str | None = None
    """The model that DPO was trained from; the KL reference when unset."""


@dataclass(frozen=True)
class RolloutSection(Section):
    """Sampling of an online method, and the scoring of what was sampled."""

    batch_size: Count = 1024
    """Prompts per iteration."""
    n_samples_per_prompt: Count = 1
    """Responses per prompt."""
    temperature: Annotated[float, Range(least=0.01, most=100)] = 1.0
    """Sampling temperature; log-probs are taken at it."""
    top_p: PositiveShare = 1.0
    """Sample from the likeliest tokens that have this probability in all; 1 for all tokens."""
    max_new_tokens: Count | None = None
    """Longest response; half of data.max_len when unset."""
    max_tokens_per_gpu: Count = 16384
    """Token budget of one scoring forward; padding counts, where the model reads any."""
    scoring_parts: Count | None = None
    """Parts of an iteration's responses, each scored as soon as it is sampled; unset: 4 where a
    reward server is asked, else 1."""

    @property
    def num_sequences(self) -> int:
        return self.batch_size * self.n_samples_per_prompt


@dataclass(frozen=True)
class Train(Section):
    """How long, with what batches and on what device it is trained."""

    batch_size: Count = 128
    """Sequences per optimizer step, over all ranks."""
    micro_batch_size: Count | None = None
    """Sequences per forward on one rank; unset lets max_tokens_per_gpu decide."""
    max_tokens_per_gpu: Count = 16384
    """Token budget of one training forward on one rank; padding counts, where there is any."""
    max_epochs: Count = 1
    """Passes over a rollout (online) or over the data (offline stages)."""
    num_episodes: Count = 1
    """Passes over the prompts."""
    max_steps: Count | None = None
    """Stop after this many iterations (online) or optimizer steps (offline)."""
    seed: Seed = 42
    """Seed of sampling, shuffling, hold-out and new heads."""
    enable_ema: bool = False
    """Keep a moving average of the policy's weights; the exports hold it."""
    ema_beta: Decay = 0.992
    """Decay of that average, per optimizer step."""
    colocate_all: bool = True
    """Share the same GPUs between rollout, scoring, critic and policy."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; auto takes CUDA where there is any."""
    async_lag: Annotated[int, Range(least=0, most=64)] = 0
    """Updates that the policy is ahead of the responses it trains on. 0 does one after the other;
    with 1 the next responses are sampled and scored while it trains, with 2 also sampled while the
    ones before are scored. On GPUs the engines need some of their own."""
    self_check: bool = True
    """Check the assembled pipeline before the first update."""
    max_skipped_steps: CountOrZero = 3
    """Optimizer steps in a row that may be left out because their loss or gradient is not finite,
    each with a line that names its samples; one more ends the run. 0: the first ends it."""
