"""What an online run computes and where: the objects of the cost model, and its products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rto.cluster.plan import choose_transport
from rto.planning.cards import Machine
from rto.planning.memory import Setup
from rto.planning.shape import ModelShape
from rto.planning.states import width
from rto.rollout.engine import Transport
from rto.sections.run_config import RunConfig

Parts = Mapping[str, float]
"""What takes the time -> seconds."""


@dataclass(frozen=True)
class StageTime:
    name: str
    parts: Parts

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


@dataclass(frozen=True)
class Workload:
    """An online run on a machine, and what its settings do not say.

    ``prompt_tokens`` and ``response_tokens`` are means. The longest response of an iteration is
    taken to reach the limit.
    """

    setup: Setup
    machine: Machine
    prompt_tokens: float
    response_tokens: float
    cache_tokens: int
    """What an engine's cache holds."""
    scores_policy: bool = True
    """False where the update's own forward gives the log-probs: one optimizer step per rollout."""
    shares_prompts: bool = True
    """Whether a forward reads the prompt of a group once."""

    @property
    def config(self) -> RunConfig:
        return self.setup.config

    @property
    def shared(self) -> bool:
        """Whether the groups are on the same GPUs."""
        return self.setup.plan.colocated

    @property
    def transport(self) -> Transport:
        plan = self.setup.plan
        return choose_transport(self.config, device=plan.device, colocated=plan.colocated)

    @property
    def width(self) -> int:
        """Bytes of a weight."""
        return width(self.config.ds)

    @property
    def peak(self) -> float:
        """Operations a second of one card; tensor cores do fp32 (as TF32) at half the rate of
        bf16."""
        return self.machine.card.tflops * 1e12 * (2 / self.width)

    @property
    def sequences(self) -> int:
        return self.config.rollout.num_sequences

    @property
    def longest(self) -> int:
        return self.config.max_new_tokens

    @property
    def forward_tokens(self) -> float:
        """Tokens that a model reads of the whole rollout."""
        prompts = self.config.rollout.batch_size if self.shares_prompts else self.sequences
        return prompts * self.prompt_tokens + self.sequences * self.response_tokens

    @property
    def context(self) -> float:
        """Tokens that a token attends to, on average."""
        return (self.prompt_tokens + self.response_tokens) / 2

    @property
    def room(self) -> int:
        """Tokens of the iteration's arrays: every response has the room of the longest."""
        return self.sequences * self.longest


def matrix_params(shape: ModelShape) -> int:
    """Parameters that a token is multiplied with: all but a table that is only looked up in."""
    return shape.params - (0 if shape.tied else shape.embedding_params)


def forward_flops(shape: ModelShape, tokens: float, context: float) -> float:
    """A multiplication and an addition per parameter and token, and the two products of attention
    with ``context`` earlier tokens (Kaplan et al. 2020, section 2.1)."""
    layers = shape.layers + shape.encoder_layers
    return tokens * (2 * matrix_params(shape) + 4 * layers * shape.q_width * context)


def add(total: dict[str, float], parts: Parts) -> None:
    """Put ``parts`` on top of ``total``, name by name."""
    for name, value in parts.items():
        total[name] = total.get(name, 0.0) + value
