"""Scores of stored rows: rewards from the data, the reference's log-probs from the disk."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rto.cluster.scorer import ClusterScorer, demand_all
from rto.data.examples import Example, Rated, collate_groups
from rto.data.loaders.rated import unrelated_rows
from rto.data.storage.arrow import Chained
from rto.data.storage.groups import Groups
from rto.data.storage.keys import digest, numbered
from rto.runs.reference_cache import cache_path, load_logprobs, saving_logprobs
from rto.sections.run_config import RunConfig
from rto.types import Role, ScoredBatch, TokenBatch

CHUNK = 256
"""Rows whose reference log-probs are computed at a time."""

Progress = Callable[[str, int, int], None]
"""Hears what is computed, how many rows of it are done, and of how many."""


@dataclass(frozen=True)
class Reference:
    """The frozen reference: computes what the cache does not hold."""

    config: RunConfig
    scorer: ClusterScorer
    role: Role
    """Whose forward it is: the policy's before its first step, or that of a scorer actor."""
    pad_token_id: int
    progress: Progress

    def logprobs(self, *parts: Sequence[Example]) -> list[Sequence[Tensor]]:
        """Log-probs [T_i] of each row's response, for each of the parts.

        What no file holds is computed together: rows of several parts may have one prompt.
        """
        paths = [self._path(rows) for rows in parts]
        missing = {path: part for path, part in zip(paths, parts, strict=True) if not path.exists()}
        if missing:
            rows = Chained(*missing.values())
            with contextlib.ExitStack() as files:
                write = [files.enter_context(saving_logprobs(*item)) for item in missing.items()]
                for index, known in self._compute(rows):
                    part, row = rows.find(index)
                    write[part](row, known)
        return [load_logprobs(path, part) for path, part in zip(paths, parts, strict=True)]

    def _path(self, rows: Sequence[Example]) -> Path:
        ds = self.config.ds
        return cache_path(
            self.config.data.cache_dir,
            model=str(self.config.reference_path),
            precision=f"{ds.dtype} {ds.load_in_4bit} {self.config.rollout.temperature}",
            rows=rows,
        )

    def _compute(self, rows: Sequence[Example]) -> Iterator[tuple[int, Tensor]]:
        """(row, its log-probs), in the order of computation."""
        order = _in_order(rows)
        for start in range(0, len(rows), CHUNK):
            self.progress("reference log-probs", start, len(rows))
            chunk = [(i, rows[i]) for i in itertools.islice(order, CHUNK)]
            prompts = itertools.groupby((row for _, row in chunk), key=lambda row: row.prompt_ids)
            tokens = collate_groups(
                [list(same) for _, same in prompts], pad_token_id=self.pad_token_id
            )
            logprobs = self.scorer.score(tokens, [], frozenset({self.role}))[self.role]
            for (i, row), known in zip(chunk, logprobs, strict=True):
                yield i, known[: len(row.response_ids)]


def _in_order(rows: Sequence[Example]) -> Iterator[int]:
    """Row numbers, those of a prompt side by side, prompts with long responses first."""
    lengths = np.empty(len(rows), np.int64)
    keys = np.empty(len(rows), "S16")
    for i, row in enumerate(rows):
        lengths[i], keys[i] = len(row.response_ids), digest(row.prompt_ids)
    prompts = numbered(keys)
    longest = np.zeros(len(rows), np.int64)
    np.maximum.at(longest, prompts, lengths)
    by_length = np.argsort(-longest[prompts], kind="stable")
    ends = np.flatnonzero(np.diff(longest[prompts[by_length]])) + 1
    for same in np.split(by_length, ends):
        yield from sorted(same.tolist(), key=lambda i: _prompt_bytes(rows[i]))


def _prompt_bytes(row: Example) -> bytes:
    """Bytes that sort as the prompt's token ids do."""
    return np.array(row.prompt_ids, ">u4").tobytes()


@dataclass(frozen=True, eq=False)
class Known:
    """Log-probs of some rows of a data set; ``places`` [R] of the others are -1."""

    logprobs: Sequence[Tensor]
    places: np.ndarray

    def of(self, rows: Sequence[int]) -> list[Tensor]:
        for row in rows:
            if self.places[row] < 0:
                raise ValueError(f"row {row} was not among those whose log-probs were asked for")
        return [self.logprobs[int(self.places[row])] for row in rows]


@dataclass(frozen=True)
class StoredScores:
    """Scores batches of ``groups``, given by number; ``roles`` as the method asks for them."""

    groups: Groups[Sequence[Example]]
    roles: frozenset[Role]
    scorer: ClusterScorer
    pad_token_id: int
    starts: np.ndarray
    """The row in which each group begins [N + 1], all groups end to end."""
    reference: Known | None
    unrelated: tuple[Sequence[Example], Known] | None

    def __call__(self, tokens: TokenBatch, groups: Sequence[int]) -> ScoredBatch:
        rows = [row for g in groups for row in range(self.starts[g], self.starts[g + 1])]
        trained = self.roles & {Role.POLICY, Role.CRITIC}
        scores = dict(self.scorer.score(tokens, [], trained).scores) if trained else {}
        if Role.REWARD in self.roles:
            scores[Role.REWARD] = self._rewards(groups)
        if self.reference is not None:
            scores[Role.REFERENCE] = _padded(self.reference.of(rows))
        if self.unrelated is not None:
            scores[Role.UNRELATED] = self._unrelated(rows)
        demand_all(self.roles, scores, "stored rows have no")
        return ScoredBatch(tokens, scores)

    def _rewards(self, groups: Sequence[int]) -> Tensor:
        """[B], in the order of the groups' rows."""
        return torch.tensor([_reward(row) for g in groups for row in self.groups[g]])

    def _unrelated(self, rows: Sequence[int]) -> Tensor:
        assert self.unrelated is not None
        examples, reference = self.unrelated
        tokens = collate_groups([[examples[row]] for row in rows], pad_token_id=self.pad_token_id)
        policy = self.scorer.score(tokens, [], frozenset({Role.POLICY}))[Role.POLICY]
        theirs = torch.stack([logprobs.sum() for logprobs in reference.of(rows)])
        return policy.masked_fill(~tokens.response_mask, 0).sum(-1) - theirs


def store(
    groups: Groups[Sequence[Example]],
    roles: frozenset[Role],
    *,
    scorer: ClusterScorer,
    reference: Reference,
    visited: np.ndarray,
) -> StoredScores:
    """Everything that is known of ``groups`` before training, computed or read from the cache.

    Only the groups numbered in ``visited`` can be asked for: a short run computes no more.
    """
    rows = groups.rows
    wanted = rows.of(visited)
    places = np.full(len(rows), -1)
    places[wanted] = np.arange(len(wanted))
    parts: dict[Role, Sequence[Example]] = {}
    mismatched = None
    if Role.REFERENCE in roles:
        parts[Role.REFERENCE] = groups.select(visited).rows
    if Role.UNRELATED in roles:
        mismatched = unrelated_rows(groups, max_len=reference.config.data.max_len)
        parts[Role.UNRELATED] = mismatched.select(wanted)
    scores = dict(zip(parts, reference.logprobs(*parts.values()), strict=True))
    known = {role: Known(logprobs, places) for role, logprobs in scores.items()}
    return StoredScores(
        groups=groups,
        roles=roles,
        scorer=scorer,
        pad_token_id=reference.pad_token_id,
        starts=rows.starts,
        reference=known.get(Role.REFERENCE),
        unrelated=None if mismatched is None else (mismatched, known[Role.UNRELATED]),
    )


def _reward(row: Example) -> float:
    if not isinstance(row, Rated):
        raise ValueError("these rows have no reward: the method needs rated responses")
    return row.reward


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
