"""The configuration of a run: one typed tree, written to the run folder and loadable again.

This module imports neither torch nor any other heavy library: `rto --help` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rto.secrets import hide, holds_secret
from rto.sections.data import Data
from rto.sections.methods import Algo
from rto.sections.ranges import check_tree, require
from rto.sections.runtime import (
    VLLM,
    Ckpt,
    Cluster,
    DeepSpeed,
    Eval,
    Generate,
    Logger,
    Planned,
)
from rto.sections.training import Actor, Critic, DPOModel, Frozen, Reward, RolloutSection, Train

FREE_TEXT = ("generate.prompt", "data.input_template")
"""Settings that hold text for a model: any words may stand in them."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does."""

    actor: Actor = field(default_factory=Actor)
    critic: Critic = field(default_factory=Critic)
    ref: Frozen = field(default_factory=Frozen)
    reward: Reward = field(default_factory=Reward)
    dpo: DPOModel = field(default_factory=DPOModel)
    algo: Algo = field(default_factory=Algo)
    rollout: RolloutSection = field(default_factory=RolloutSection)
    train: Train = field(default_factory=Train)
    data: Data = field(default_factory=Data)
    ds: DeepSpeed = field(default_factory=DeepSpeed)
    vllm: VLLM = field(default_factory=VLLM)
    ray: Cluster = field(default_factory=Cluster)
    plan: Planned = field(default_factory=Planned)
    ckpt: Ckpt = field(default_factory=Ckpt)
    eval: Eval = field(default_factory=Eval)
    logger: Logger = field(default_factory=Logger)
    generate: Generate = field(default_factory=Generate)

    def __post_init__(self) -> None:
        check_tree(self)
        check_secrets(self)
        self.check_shared("actor")
        shards, batch = self.num_shards, self.train.batch_size
        require(
            batch % shards == 0,
            f"train.batch_size {batch} does not divide over {self.told_shards}: "
            f"use a multiple of {shards}",
        )
        require(
            not (self.ds.load_in_4bit and self.ds.lora.rank == 0),
            "ds.load_in_4bit is on and ds.lora.rank is 0: a 4-bit base is trained through "
            "adapters, set ds.lora.rank to 8 or more",
        )
        reference = self.ref.model_name_or_path
        require(
            not self.ds.load_in_4bit or reference in (None, self.actor.model_name_or_path),
            "ds.load_in_4bit is on and ref.model_name_or_path is another model: the reference of "
            "a 4-bit policy is its own base with the adapters off, leave it unset",
        )

    @property
    def reference_path(self) -> str | None:
        return self.ref.model_name_or_path or self.actor.model_name_or_path

    @property
    def max_new_tokens(self) -> int:
        """Longest response. Where no limit was given: what data.max_prompt_len leaves of
        data.max_len, or half of it."""
        data = self.data
        rest = (
            data.max_len // 2 if data.max_prompt_len is None else data.max_len - data.max_prompt_len
        )
        return self.rollout.max_new_tokens or rest

    @property
    def max_prompt_len(self) -> int:
        """Longest prompt of a rollout."""
        room = self.data.max_len - self.max_new_tokens
        return room if self.data.max_prompt_len is None else min(room, self.data.max_prompt_len)

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps of an online iteration."""
        return self.rollout.num_sequences // self.train.batch_size * self.train.max_epochs

    @property
    def num_shards(self) -> int:
        """Parts that the policy's rows are cut into, each read by one rank, or by several
        together."""
        return self.actor.num_ranks // self.ds.sequence_parallel_size

    @property
    def told_shards(self) -> str:
        """How many ``num_shards`` are, in words."""
        size = self.ds.sequence_parallel_size
        return f"{self.num_shards} {'ranks' if size == 1 else f'groups of {size} ranks'}"

    def check_shared(self, section: Literal["actor", "critic"]) -> None:
        """The ranks of a trained model divide into those that share rows."""
        size = self.ds.sequence_parallel_size
        ranks = (self.critic if section == "critic" else self.actor).num_ranks
        require(
            ranks % size == 0,
            f"ds.sequence_parallel_size is {size} and {section}.num_nodes x "
            f"{section}.num_gpus_per_node is {ranks} ranks, of which {size} share rows: "
            f"use a multiple of {size}",
        )

    def check_actor(self) -> None:
        """Rules of every stage that trains a model."""
        require(
            self.actor.model_name_or_path is not None,
            "actor.model_name_or_path is not set: give a hub id or a directory",
        )

    def check_online(self, *, needs_critic: bool, needs_dpo: bool, min_responses: int = 1) -> None:
        """Rules of `rto train`, which need to know what the method reads."""
        self.check_actor()
        sequences, batch = self.rollout.num_sequences, self.train.batch_size
        require(
            sequences % batch == 0,
            f"rollout.batch_size x n_samples_per_prompt = {sequences} sequences do not divide into "
            f"optimizer steps of train.batch_size {batch}",
        )
        k = self.rollout.n_samples_per_prompt
        require(
            batch % (k * self.num_shards) == 0,
            f"train.batch_size {batch} does not hold whole groups of {k} on each of "
            f"{self.told_shards}: use a multiple of {k * self.num_shards}",
        )
        require(
            k >= min_responses,
            f"algo {self.algo.name} compares responses to one prompt: set "
            f"rollout.n_samples_per_prompt to {min_responses} or more (it is {k})",
        )
        require(
            bool(self.data.prompt_dataset or self.data.feedback),
            "no prompts: set data.prompt_dataset (or data.feedback)",
        )
        top_p = self.rollout.top_p
        require(
            top_p == 1,
            f"rollout.top_p is {top_p:g}: must be 1 for training; the engine's log-probs would be "
            "those of a cut distribution, the trainer's are not, and their ratio is in the loss",
        )
        require(
            self.reward.num_sources > 0,
            "no reward source: set reward.model_name_or_path, reward.func_path or "
            "reward.remote_url",
        )
        require(
            self.max_new_tokens < self.data.max_len,
            f"rollout.max_new_tokens {self.max_new_tokens} leaves no room for a prompt in "
            f"data.max_len {self.data.max_len}",
        )
        require(
            not needs_dpo or self.dpo.model_name_or_path is not None,
            f"algo {self.algo.name} needs a DPO policy: set dpo.model_name_or_path "
            "(train one with `rto dpo`)",
        )
        require(
            not needs_critic or self.critic_path is not None,
            f"algo {self.algo.name} trains a critic: set critic.model_name_or_path "
            "or reward.model_name_or_path",
        )

    @property
    def critic_path(self) -> str | None:
        """The critic starts from the first reward model, then from the policy."""
        models = self.reward.model_name_or_path
        return self.critic.model_name_or_path or (
            models[0] if models else self.actor.model_name_or_path
        )


def check_secrets(config: RunConfig) -> None:
    """A configuration is printed, stored and shown in reports: it holds no secret.

    Raises:
        UserError: names the setting, without its value.
    """
    for name, text in texts(asdict(config)):
        require(
            name in FREE_TEXT or not holds_secret(text),
            f"{name} holds a secret ({hide(text)}), which would be written to config.yaml, logs "
            "and reports: keep it in an environment variable (in reward.remote_url write its name, "
            "as in ?api_key=${NAME})",
        )


def texts(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every text among the settings, each item of a list by itself."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from texts(value, f"{prefix}{key}.")
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, str):
                yield f"{prefix}{key}", item
