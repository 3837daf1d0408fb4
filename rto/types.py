"""The objects of one iteration, in the order in which they come to be.

    Prompt -> Rollout -> TokenBatch -> ScoredBatch -> TrainBatch -> StepStats

Axes: B sequences, P prompt positions, T response positions. After the model's forward
everything lives on the response axis [B, T]; masks are bool and True counts.
Each stage is its own frozen type: no field is None because it is "not there yet".
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

TokenIds = NDArray[np.int32]
LogProbs = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)


class Role(enum.StrEnum):
    """Who gives a number to a response or to each of its tokens."""

    POLICY = "policy"  # log-probs [B, T] of the policy being trained
    REFERENCE = "reference"  # log-probs [B, T] of the frozen KL reference
    DPO = "dpo"  # log-probs [B, T] of the frozen DPO policy
    DPO_REFERENCE = "dpo_reference"  # log-probs [B, T] of the reference that DPO was trained from
    CRITIC = "critic"  # values [B, T]: entry t is V(state before token t)
    REWARD = "reward"  # one scalar per response [B]
    SAMPLER = "sampler"  # log-probs [B, T] of whoever sampled the response
    UNRELATED = "unrelated"  # log pi/pi_ref [B] of each prompt with a response to another prompt


@dataclass(frozen=True)
class Prompt:
    """One prompt. ``id`` is the row's identity in the dataset, stable over epochs and resumes."""

    id: int
    token_ids: tuple[int, ...]
    text: str
    label: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Rollout:
    """One sampled response: read-only arrays of its tokens (``token_array``, ``logprob_array``).

    ``sampler_logprobs`` are the engine's own log-probs of the sampled tokens, under the sampling
    temperature. ``finished`` is True when the last token is EoS; a response cut by the length
    limit keeps its last sampled token and is given no EoS.
    """

    prompt: Prompt
    sample_index: int
    token_ids: TokenIds
    sampler_logprobs: LogProbs
    text: str
    finished: bool
    policy_version: int
    seed: int


@dataclass(frozen=True)
class Rows:
    """A dataclass whose every tensor, and tensor in a mapping, has the batch as its first axis."""

    def __len__(self) -> int:
        return len(_first_tensor(self))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """The same type with ``fn`` applied to each tensor."""
        return _map(self, fn)

    def take(self, rows: Sequence[int] | Tensor) -> Self:
        """The given rows, in the given order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return self.map(lambda x: x.index_select(0, index))

    def to(self, device: torch.device | str) -> Self:
        return self.map(lambda x: x.to(device, non_blocking=True))


@dataclass(frozen=True)
class TokenBatch(Rows):
    """Token ids of a batch: prompts left-padded [B, P], responses right-padded [B, T].

    ``group`` [B] numbers the prompt a row answers; rows of one group stay together in every
    minibatch and shard. ``finished`` [B] is True where the response ends in EoS.
    ``sampler_logprobs`` [B, T] is 0 where the mask is False (and everywhere for stored data).
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    sampler_logprobs: Tensor
    finished: Tensor
    group: Tensor

    def __post_init__(self) -> None:
        batch, length = self.response_ids.shape
        expected = {
            "prompt_mask": self.prompt_ids.shape,
            "response_mask": (batch, length),
            "sampler_logprobs": (batch, length),
            "finished": (batch,),
            "group": (batch,),
        }
        for name, shape in expected.items():
            got = tuple(getattr(self, name).shape)
            if got != tuple(shape):
                raise ValueError(f"TokenBatch.{name} has shape {got}, expected {tuple(shape)}")
        if self.prompt_ids.shape[0] != batch:
            raise ValueError(
                f"TokenBatch: {self.prompt_ids.shape[0]} prompts for {batch} responses"
            )

    @property
    def lengths(self) -> Tensor:
        """Real tokens of each row, prompt plus response: long [B]."""
        return self.prompt_mask.sum(-1) + self.response_mask.sum(-1)

    def trim(self) -> Self:
        """The same rows without the columns that are padding in every row."""
        prompt = int(self.prompt_mask.sum(-1).max())
        response = max(int(self.response_mask.sum(-1).max()), 1)
        width = self.prompt_ids.shape[1]
        return dataclasses.replace(
            self,
            prompt_ids=self.prompt_ids[:, width - prompt :],
            prompt_mask=self.prompt_mask[:, width - prompt :],
            response_ids=self.response_ids[:, :response],
            response_mask=self.response_mask[:, :response],
            sampler_logprobs=self.sampler_logprobs[:, :response],
        )


@dataclass(frozen=True)
class ScoredBatch(Rows):
    """A TokenBatch with one tensor per role that the method asked for (shapes: see ``Role``)."""

    tokens: TokenBatch
    scores: Mapping[Role, Tensor]

    def __getitem__(self, role: Role) -> Tensor:
        if role not in self.scores:
            have = ", ".join(sorted(self.scores)) or "none"
            raise ValueError(f"no scores of role '{role}' in this batch (it has: {have})")
        return self.scores[role]

    def with_scores(self, scores: Mapping[Role, Tensor]) -> ScoredBatch:
        return ScoredBatch(self.tokens, {**self.scores, **scores})


@dataclass(frozen=True)
class TrainBatch(Rows):
    """What a method trains on. Methods extend it with the tensors that their loss reads."""

    tokens: TokenBatch


@dataclass(frozen=True)
class PolicyOutput:
    """What a policy forward gives: log-probs [B, T], and what else the method asked for."""

    logprobs: Tensor
    entropy: Tensor | None = None
    """[B, T]."""
    reference_kl: Tensor | None = None
    """KL(reference || policy) over the whole vocabulary, [B, T]."""
    value: Tensor | None = None
    """Of a head on the policy's own hidden state at the end of the prompt, [B]."""


@dataclass(frozen=True)
class LossNorm:
    """Denominators of one optimizer step: counts over all its micro-batches and ranks."""

    tokens: int
    sequences: int
    groups: int


@dataclass(frozen=True)
class LossOutput:
    """A loss and what it saw.

    ``loss`` and every metric are additive: already divided by a global count of ``LossNorm``, so
    that their sum over micro-batches and ranks is the optimizer step's value.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class SkippedStep:
    """An optimizer step that was left out, for its loss or its gradient is not finite.

    ``area`` is that of its metrics, ``step`` counts within the update from 0. ``rows`` of the batch
    have the loss that is not finite; where only the gradient is not, they are all of the step's.
    """

    area: str
    step: int
    problem: str
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class StepStats:
    """What one ``Learner.update`` did: means over its optimizer steps, and what it consumed."""

    metrics: Mapping[str, float]
    optimizer_steps: int
    tokens: int
    policy_logprobs: Tensor | None = None
    """Of a single step, [B, T]: log-probs before it, by its own forward (``Learner.single_step``).
    """
    skipped: tuple[SkippedStep, ...] = ()
    diverged: bool = False
    """The last of ``skipped`` was one too many in a row (`train.max_skipped_steps`)."""


def token_array(ids: ArrayLike) -> TokenIds:
    """A read-only copy."""
    return _read_only(np.array(ids, np.int32))


def logprob_array(values: ArrayLike) -> LogProbs:
    """A read-only copy."""
    return _read_only(np.array(values, np.float32))


def _read_only(array: NDArray[Number]) -> NDArray[Number]:
    array.setflags(write=False)
    return array


def collate(rollouts: Sequence[Rollout], *, pad_token_id: int) -> TokenBatch:
    """Rollouts -> TokenBatch. Rows of one prompt share a group number, by first appearance."""
    if not rollouts:
        raise ValueError("collate: no rollouts")
    groups: dict[int, int] = {}
    for rollout in rollouts:
        if not len(rollout.token_ids):
            raise ValueError(f"collate: empty response to prompt {rollout.prompt.id}")
        groups.setdefault(rollout.prompt.id, len(groups))
        if len(rollout.sampler_logprobs) != len(rollout.token_ids):
            raise ValueError(
                f"collate: {len(rollout.sampler_logprobs)} log-probs for "
                f"{len(rollout.token_ids)} tokens in response to prompt {rollout.prompt.id}"
            )
    prompt_ids, prompt_mask = pad([r.prompt.token_ids for r in rollouts], pad_token_id, left=True)
    response_ids, response_mask = pad([r.token_ids for r in rollouts], pad_token_id, left=False)
    width = response_ids.shape[1]
    sampler = _padded([r.sampler_logprobs for r in rollouts], width, np.float32(0), left=False)
    return TokenBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
        sampler_logprobs=sampler,
        finished=torch.tensor([r.finished for r in rollouts]),
        group=torch.tensor([groups[r.prompt.id] for r in rollouts]),
    )


def pad(
    rows: Sequence[Sequence[int] | TokenIds], value: int, *, left: bool
) -> tuple[Tensor, Tensor]:
    """Ragged ids -> (ids [B, N] long, mask [B, N] bool), padded on the left or on the right."""
    width = max(1, *(len(row) for row in rows)) if rows else 1
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long).unsqueeze(-1)
    columns = torch.arange(width)
    mask = columns >= width - lengths if left else columns < lengths
    return _padded(rows, width, np.int64(value), left=left), mask


def widen(scores: Tensor, tokens: TokenBatch) -> Tensor:
    """Scores by token of some of the rows, as wide as the responses of ``tokens``; others as they
    are."""
    if scores.ndim == 1:
        return scores
    missing = tokens.response_ids.shape[1] - scores.shape[1]
    return torch.nn.functional.pad(scores, (0, missing))


def _padded(
    rows: Sequence[Sequence[int] | NDArray[Any]], width: int, value: np.generic, *, left: bool
) -> Tensor:
    """[B, ``width``] of the type of ``value``, which stands where a row has ended."""
    padded = np.full((len(rows), width), value)
    for place, row in zip(padded, rows, strict=True):
        (place[width - len(row) :] if left else place[: len(row)])[:] = row
    return torch.from_numpy(padded)


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Mapping):
        return {key: _map(item, fn) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return type(value)(**{f.name: _map(getattr(value, f.name), fn) for f in fields})
    return value


def _first_tensor(value: Any) -> Tensor:
    found: list[Tensor] = []
    _map(value, lambda x: found.append(x) or x)
    if not found:
        raise ValueError(f"{type(value).__name__} holds no tensor")
    return found[0]
