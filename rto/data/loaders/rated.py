"""Rated responses as token ids, and the rescaling of a training set's rewards."""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rto.data.examples import Example, Limit, Rated, RatedGroup, read_responses
from rto.data.feedback.layouts import require_rated
from rto.data.feedback.read import Feedback, Source, read_feedback, tallied
from rto.data.storage.arrow import Lazy, cache_home
from rto.data.storage.groups import Groups, read_rated, write_groups
from rto.data.storage.keys import numbered
from rto.data.templates import Template
from rto.errors import UserError
from rto.protocols import RewardScaling
from rto.sections.data import Data
from rto.types import TokenBatch

ONE_RESPONSE = "with one response to a prompt, rto fit --algo kto and --algo dro can learn from it"


@dataclass(frozen=True)
class RatedDataset:
    """All responses of each prompt that fit; how many prompts were dropped, and why.

    ``num_merged`` responses of the prompts that are left repeated another one.
    """

    groups: Groups[RatedGroup]
    num_too_long: int
    num_too_few: int
    num_merged: int = 0


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
    names = data.dataset or ([data.feedback] if data.feedback is not None else [])
    if not names:
        raise UserError("no rated responses: set data.feedback (or data.dataset)")
    sources = [Source.open(name, data, split=data.dataset_split) for name in names]
    for source in sources:
        require_rated(source.layout, source.name)
    limit = Limit.of(data, encoder_decoder=template.encoder_decoder)
    merged = array("q")

    def tokens() -> Iterator[RatedGroup]:
        rows = itertools.islice(read_feedback(sources), data.max_samples)
        return (_tokens(row, template, limit) for row in tallied(rows, merged))

    groups = Groups.of([write_groups(tokens(), cache_home(data.cache_dir))], read_rated)
    fits, few = groups.sizes > 0, (groups.sizes > 0) & (groups.sizes < min_responses)
    if few.any() and data.on_few_responses == "error":
        raise _too_few(sources, int(few.argmax()), min_responses)
    kept = np.flatnonzero(fits & ~few)
    num_too_long, num_too_few = int((~fits).sum()), int(few.sum())
    if not len(kept):
        remedy = f"; {ONE_RESPONSE}" if num_too_few else ""
        raise UserError(
            f"{names[0]}: no usable prompt of {len(groups)}: {num_too_long} are too long for "
            f"data.max_len, {num_too_few} have fewer than {min_responses} responses{remedy}"
        )
    num_merged = int(np.asarray(merged)[kept].sum())
    return RatedDataset(groups.select(kept), num_too_long, num_too_few, num_merged)


def _too_few(sources: Sequence[Source], number: int, min_responses: int) -> UserError:
    """What is said of the prompt of this number, which has fewer than ``min_responses``."""
    prompt = next(itertools.islice(read_feedback(sources), number, None))
    return prompt.where.error(
        f"has {len(prompt.responses)} rated responses, this method compares {min_responses}: "
        "add some or set data.on_few_responses to filter"
    )


def reward_scale(groups: Groups[RatedGroup], scaling: RewardScaling) -> RewardScale:
    """The constants of a training set: over all rows, or of the rewards within a prompt."""
    if scaling == "none":
        return RewardScale()
    flat = torch.from_numpy(groups.rewards.astype(np.float32)).double()
    if scaling == "within_prompt":
        flat = flat - _prompt_means(flat, torch.from_numpy(groups.sizes))
    std = float(flat.std(correction=0))
    if std == 0:
        raise UserError(f"all rewards are equal ({scaling}): there is nothing to learn from them")
    return RewardScale(float(flat.mean()) if scaling == "zscore" else 0.0, std)


def unrelated_rows(groups: Groups[Any], *, max_len: int) -> UnrelatedRows:
    """Each row's prompt with a response to the next prompt: KTO's mismatched pairs, in row order.

    The pairs are fixed for the data set, so their reference log-probs can be kept. A response
    that does not fit behind its new prompt is cut to ``max_len`` tokens in all.
    """
    if len(groups) < 2:
        raise UserError("unrelated responses need two prompts or more: give more rows")
    partners = unrelated_partners(np.repeat(np.arange(len(groups)), groups.sizes)).numpy()
    return UnrelatedRows(groups.rows, np.arange(len(partners)), partners, max_len)


@dataclass(frozen=True, eq=False)
class UnrelatedRows(Lazy[Example]):
    """The prompts of the rows numbered in ``own`` [R], with the responses of ``others`` [R]."""

    rows: Sequence[Example]
    own: np.ndarray
    others: np.ndarray
    max_len: int

    def __len__(self) -> int:
        return len(self.own)

    def select(self, numbers: np.ndarray) -> UnrelatedRows:
        """The pairs with these numbers."""
        own, others = self.own[numbers], self.others[numbers]
        return dataclasses.replace(self, own=own, others=others)

    def item(self, index: int) -> Example:
        prompt_ids = self.rows[self.own[index]].prompt_ids
        theirs = self.rows[self.others[index]]
        room = self.max_len - len(prompt_ids)
        whole = theirs.finished and len(theirs.response_ids) <= room
        return Example(prompt_ids, theirs.response_ids[:room], whole)


def unrelated_partners(group: Sequence[int] | np.ndarray) -> Tensor:
    """For each row [B] a row of the next prompt, those of the first prompt for the last.

    ``group`` [B] numbers the prompt of each row; prompts follow each other as they first appear.
    """
    prompt = numbered(np.asarray(group))
    sizes = np.bincount(prompt)
    starts = sizes.cumsum() - sizes
    rows = np.argsort(prompt, kind="stable")
    own = np.arange(len(rows)) - starts[prompt[rows]]
    others = (prompt[rows] + 1) % len(sizes)
    partners = np.empty_like(rows)
    partners[rows] = rows[starts[others] + own % sizes[others]]
    return torch.from_numpy(partners)


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
    texts = [text for text, _ in row.responses]
    examples = read_responses(row.prompt, texts, template, limit, row.where)
    return tuple(
        Rated(
            example.prompt_ids,
            example.response_ids,
            example.finished,
            reward,
            prompt_cut=example.prompt_cut,
        )
        for example, (_, reward) in zip(examples, row.responses, strict=bool(examples))
    )


def _prompt_means(rewards: Tensor, sizes: Tensor) -> Tensor:
    """For each reward [B] the mean of its prompt's; ``sizes`` [N] sum to B."""
    starts = sizes.cumsum(0) - sizes
    sums = np.add.reduceat(rewards.numpy(), starts.numpy())
    return torch.from_numpy(sums / sizes.numpy()).repeat_interleave(sizes)
