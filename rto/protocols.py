"""The seams of the pipeline. The loop knows these and nothing else.

Everything an extension needs goes through ``PolicyMethod`` (online and offline) or through an
iterator of ``ScoredBatch`` (offline data).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, Self, runtime_checkable

from torch import Tensor

from rto.card import Card
from rto.types import (
    LossNorm,
    LossOutput,
    PolicyOutput,
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    StepStats,
    TokenBatch,
    TrainBatch,
)

Output = Literal["entropy", "reference_kl", "value"]
RewardScaling = Literal["none", "zscore", "within_prompt"]


class Method(Protocol):
    """What every method is: a frozen, picklable value that turns scores into a train batch.

    What it trains is said by the protocols below that extend it.
    """

    @property
    def card(self) -> Card: ...

    @property
    def roles(self) -> frozenset[Role]:
        """The scores that ``targets`` reads."""
        ...

    @property
    def whole_groups(self) -> bool:
        """Whether the loss needs all rows of a group in one forward."""
        ...

    @property
    def min_responses(self) -> int:
        """A prompt with fewer responses teaches this method nothing."""
        ...

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        """Everything that needs the whole batch; also metrics named ``<area>/<name>``."""
        ...

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        """The method for the next iteration (an adaptive KL coefficient, say)."""
        ...


@runtime_checkable
class PolicyMethod(Method, Protocol):
    """A method that trains a language model."""

    @property
    def outputs(self) -> frozenset[Output]:
        """The fields of ``PolicyOutput`` that ``loss`` reads beside the log-probs."""
        ...

    @property
    def reward_scaling(self) -> RewardScaling:
        """What stored rewards are put through: (r - mean) / std over the training rows, or
        r / (std of the rewards less their prompt's mean)."""
        ...

    def loss(self, output: PolicyOutput, batch: TrainBatch, norm: LossNorm) -> LossOutput: ...


@runtime_checkable
class CriticMethod(PolicyMethod, Protocol):
    """A method that also trains a value network."""

    def value_loss(self, values: Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        """``values`` [B, T]: entry t is the value of the state before response token t."""
        ...


@runtime_checkable
class ScoreMethod(Method, Protocol):
    """A method that trains a scalar head: the reward model."""

    def score_loss(self, scores: Tensor, batch: TrainBatch, norm: LossNorm) -> LossOutput:
        """``scores`` [B]: the head's output at the last real token."""
        ...


class TokenReward(Protocol):
    """What the tokens of a response are paid beside the sentence reward: a frozen, picklable value.

    The online methods hold a tuple of them and add up what they pay.
    """

    @property
    def roles(self) -> frozenset[Role]:
        """The scores that it reads."""
        ...

    def __call__(self, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards [B, T], 0 where the response mask is False; and metrics named ``<area>/<name>``.

        Beside a metric ``<area>/sum_std``, the deviation over responses of their tokens' sum, the
        method reports that deviation over the sentence reward's.
        """
        ...


class PromptSource(Protocol):
    """A resumable stream: what it yields is a function of (seed, iteration) alone."""

    def draw(self, iteration: int) -> Sequence[Prompt]: ...


class Generator(Protocol):
    def generate(
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        """Sample for an iteration: the responses of each part, in order, once all of it are there.

        Refuses when the engines do not hold ``policy_version``.
        """
        ...


class Scorer(Protocol):
    def score(
        self, tokens: TokenBatch, rollouts: Sequence[Rollout], roles: frozenset[Role]
    ) -> ScoredBatch:
        """One forward per role. A score that is missing or not finite is an error."""
        ...


class Learner(Protocol):
    @property
    def single_step(self) -> bool:
        """Whether an update is a single optimizer step.

        Its forward is then of the policy that sampled, and ``StepStats.policy_logprobs`` holds
        what it gave: nobody needs to compute those log-probs before the update.
        """
        ...

    def update(self, method: Method, batch: TrainBatch) -> StepStats:
        """Minibatch epochs over ``batch``; shards and micro-batches never split a group."""
        ...


class WeightSync(Protocol):
    def push(self) -> int:
        """Give the engines the policy's weights; returns the version that is now proven there."""
        ...


class Tracker(Protocol):
    def rollouts(self, iteration: int, rollouts: Sequence[Rollout], batch: ScoredBatch) -> None: ...

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None: ...

    def tell(self, line: str) -> None:
        """What a person should read at once, between two iterations."""
        ...


class Checkpointer(Protocol):
    @property
    def stopped(self) -> bool:
        """Whether the run is over before its last iteration: held-out rows got no better."""
        ...

    def after(
        self,
        iteration: int,
        method: Method,
        metrics: Mapping[str, float],
        drawn: Sequence[Sequence[Rollout]] = (),
    ) -> None:
        """Called at the end of each iteration: saves checkpoints and exports when they are due.

        ``drawn`` are responses for the iterations to come, of weights that are gone by now.
        """
        ...


class Evaluator(Protocol):
    def after(self, step: int) -> Mapping[str, float]:
        """Metrics ``eval/*`` of the held-out rows, where an evaluation is due after this step."""
        ...


class BatchSource(Protocol):
    """Offline data: the scored batch of each optimizer step, a function of (seed, step) alone."""

    def __iter__(self) -> Iterator[tuple[int, ScoredBatch]]: ...
