"""Rated responses as token ids, and what a training set's rewards are put through."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rto.data.examples import Example, Limit
from rto.data.feedback import Feedback, load_feedback, merged
from rto.data.templates import Template
from rto.errors import UserError
from rto.protocols import RewardScaling
from rto.sections import Data
from rto.types import TokenBatch


@dataclass(frozen=True)
class Rated(Example):
    """One response to one prompt, and its reward."""

    reward: float


RatedGroup = tuple[Rated, ...]


@dataclass(frozen=True)
class RatedDataset:
    """All responses of each prompt that fit; how many prompts were dropped, and why."""

    groups: list[RatedGroup]
    num_too_long: int
    num_too_few: int


@dataclass(frozen=True)
class RewardScale:
    """reward -> (reward - mean) / std; a training set's constants, kept with the run."""

    mean: float = 0.0
    std: float = 1.0

    def apply(self, group: RatedGroup) -> RatedGroup:
        return tuple(
            dataclasses.replace(row, reward=(row.reward - self.mean) / self.std) for row in group
        )


def load_rated(data: Data, template: Template, *, min_responses: int) -> RatedDataset:
    """The responses of ``data.dataset`` (end to end), or of ``data.feedback``, by prompt.

    Raises:
        UserError: no usable prompt, or one with too few responses where that is an error.
    """
    sources = data.dataset or ([data.feedback] if data.feedback is not None else [])
    if not sources:
        raise UserError("no rated responses: set data.feedback (or data.dataset)")
    limit = Limit(data.max_len, data.on_long_prompt)
    read = functools.partial(load_feedback, split=data.dataset_split, layout=data.layout)
    rows = merged(row for name in sources for row in read(name))
    found = [
        (row, _tokens(row, template, limit)) for row in itertools.islice(rows, data.max_samples)
    ]
    fitting = [(row, group) for row, group in found if group]
    few = [row for row, group in fitting if len(group) < min_responses]
    if few and data.on_few_responses == "error":
        raise few[0].where.error(
            f"has {len(few[0].responses)} rated responses, this method compares {min_responses}: "
            "add some or set data.on_few_responses to filter"
        )
    groups = [group for _, group in fitting if len(group) >= min_responses]
    if not groups:
        raise UserError(
            f"no usable prompt of {len(found)}: {len(found) - len(fitting)} are too long for "
            f"data.max_len, {len(few)} have fewer than {min_responses} responses"
        )
    return RatedDataset(groups, len(found) - len(fitting), len(few))


def reward_scale(groups: Sequence[RatedGroup], scaling: RewardScaling) -> RewardScale:
    """The constants of a training set: over all rows, or of the rewards within a prompt."""
    if scaling == "none":
        return RewardScale()
    rewards = [torch.tensor([row.reward for row in group]).double() for group in groups]
    flat = torch.cat(rewards)
    if scaling == "within_prompt":
        flat = torch.cat([group - group.mean() for group in rewards])
    std = float(flat.std(correction=0))
    if std == 0:
        raise UserError(f"all rewards are equal ({scaling}): there is nothing to learn from them")
    return RewardScale(float(flat.mean()) if scaling == "zscore" else 0.0, std)


def unrelated_rows(groups: Sequence[Sequence[Example]], *, max_len: int) -> list[Example]:
    """Each row's prompt with a response to the next prompt: KTO's mismatched pairs, in row order.

    The pairs are fixed for the data set, so their reference log-probs can be kept. A response
    that does not fit behind its new prompt is cut to ``max_len`` tokens in all.
    """
    if len(groups) < 2:
        raise UserError("unrelated responses need two prompts or more: give more rows")
    rows = [row for group in groups for row in group]
    numbers = [number for number, group in enumerate(groups) for _ in group]
    mismatched: list[Example] = []
    for row, partner in zip(rows, unrelated_partners(numbers), strict=True):
        theirs, room = rows[partner], max_len - len(row.prompt_ids)
        whole = theirs.finished and len(theirs.response_ids) <= room
        mismatched.append(Example(row.prompt_ids, theirs.response_ids[:room], whole))
    return mismatched


def unrelated_partners(group: Sequence[int]) -> list[int]:
    """For each row a row of the next prompt, those of the first prompt for the last.

    ``group`` numbers the prompt of each row; prompts follow each other as they first appear.
    """
    members: dict[int, list[int]] = {}
    for row, number in enumerate(group):
        members.setdefault(number, []).append(row)
    prompts = list(members.values())
    partners = list(range(len(group)))
    for own, others in zip(prompts, [*prompts[1:], prompts[0]], strict=True):
        for i, row in enumerate(own):
            partners[row] = others[i % len(others)]
    return partners


def with_unrelated_responses(tokens: TokenBatch) -> TokenBatch:
    """The same prompts, each with a response to the next prompt of the batch.

    Raises:
        ValueError: all rows answer one prompt.
    """
    if len(tokens.group.unique()) < 2:
        raise ValueError("all rows answer one prompt: unrelated responses need two prompts or more")
    responses = tokens.take(unrelated_partners(tokens.group.tolist()))
    return dataclasses.replace(
        responses,
        prompt_ids=tokens.prompt_ids,
        prompt_mask=tokens.prompt_mask,
        group=tokens.group,
    )


def _tokens(row: Feedback, template: Template, limit: Limit) -> RatedGroup:
    prompt_ids = template.prompt_ids(template.prompt(row.prompt, row.where))
    if not limit.admits(prompt_ids, row.where):
        return ()
    rated: list[Rated] = []
    for text, reward in row.responses:
        response_ids = template.response_ids(template.response(row.prompt, text, row.where))
        example = limit.example(prompt_ids, response_ids, eos=template.eos_token_id)
        rated.append(Rated(example.prompt_ids, example.response_ids, example.finished, reward))
    return tuple(rated)
