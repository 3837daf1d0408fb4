"""Scores of stored rows: rewards from the data, the reference's log-probs from the disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rto.cluster.scorer import ClusterScorer
from rto.config import RunConfig
from rto.data.examples import Example, collate_groups
from rto.data.rated import Rated, unrelated_rows
from rto.data.reference_cache import cache_path, load_logprobs, save_logprobs
from rto.types import Role, ScoredBatch, TokenBatch

CHUNK = 256
"""Rows whose reference log-probs are computed at a time."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reference:
    """The frozen reference: computes what the cache does not hold."""

    config: RunConfig
    scorer: ClusterScorer
    role: Role
    """Whose forward it is: the policy's before its first step, or that of a scorer actor."""
    pad_token_id: int
    progress: Progress

    def logprobs(self, rows: Sequence[Example]) -> list[Tensor]:
        """Log-probs [T_i] of each row's response."""
        ds = self.config.ds
        path = cache_path(
            self.config.data.cache_dir,
            model=str(self.config.reference_path),
            precision=f"{ds.param_dtype} {ds.load_in_4bit} {self.config.rollout.temperature}",
            rows=rows,
        )
        found = load_logprobs(path, rows)
        if found is None:
            found = self._compute(rows)
            save_logprobs(path, found)
        return found

    def _compute(self, rows: Sequence[Example]) -> list[Tensor]:
        result: list[Tensor] = [torch.empty(0)] * len(rows)
        order = self._in_order(rows)
        for start in range(0, len(order), CHUNK):
            self.progress(f"reference log-probs {start / len(order):.0%}")
            chunk = order[start : start + CHUNK]
            prompts = itertools.groupby(chunk, key=lambda i: rows[i].prompt_ids)
            groups = [[rows[i] for i in same] for _, same in prompts]
            tokens = collate_groups(groups, pad_token_id=self.pad_token_id)
            logprobs = self.scorer.score(tokens, [], frozenset({self.role}))[self.role]
            for i, row in zip(chunk, logprobs, strict=True):
                result[i] = row[: len(rows[i].response_ids)].clone()
        return result

    def _in_order(self, rows: Sequence[Example]) -> list[int]:
        """Row numbers, those of a prompt side by side, prompts with long responses first."""
        longest: dict[tuple[int, ...], int] = {}
        for row in rows:
            length = max(longest.get(row.prompt_ids, 0), len(row.response_ids))
            longest[row.prompt_ids] = length
        return sorted(
            range(len(rows)), key=lambda i: (-longest[rows[i].prompt_ids], rows[i].prompt_ids)
        )


@dataclass(frozen=True)
class StoredScores:
    """Scores batches of ``groups``, given by number; ``roles`` as the method asks for them."""

    groups: Sequence[Sequence[Example]]
    roles: frozenset[Role]
    scorer: ClusterScorer
    pad_token_id: int
    first_row: Sequence[int]
    reference: Sequence[Tensor | None]
    """Log-probs [T_i] of each row; None of a row that no step holds."""
    unrelated: tuple[Sequence[Example], Sequence[Tensor | None]] | None

    def __call__(self, tokens: TokenBatch, groups: Sequence[int]) -> ScoredBatch:
        rows = [self.first_row[g] + i for g in groups for i in range(len(self.groups[g]))]
        trained = self.roles & {Role.POLICY, Role.CRITIC}
        scores = dict(self.scorer.score(tokens, [], trained).scores) if trained else {}
        if Role.REWARD in self.roles:
            rated = [row for g in groups for row in self.groups[g]]
            scores[Role.REWARD] = torch.tensor([_reward(row) for row in rated])
        if Role.REFERENCE in self.roles:
            scores[Role.REFERENCE] = _padded(_known(self.reference, rows))
        if Role.UNRELATED in self.roles and self.unrelated is not None:
            scores[Role.UNRELATED] = self._unrelated(rows)
        missing = self.roles - scores.keys()
        if missing:
            raise ValueError(f"stored rows have no {', '.join(sorted(missing))}")
        return ScoredBatch(tokens, scores)

    def _unrelated(self, rows: Sequence[int]) -> Tensor:
        assert self.unrelated is not None
        examples, reference = self.unrelated
        tokens = collate_groups([[examples[row]] for row in rows], pad_token_id=self.pad_token_id)
        policy = self.scorer.score(tokens, [], frozenset({Role.POLICY}))[Role.POLICY]
        theirs = torch.stack([logprobs.sum() for logprobs in _known(reference, rows)])
        return policy.masked_fill(~tokens.response_mask, 0).sum(-1) - theirs


def store(
    groups: Sequence[Sequence[Example]],
    roles: frozenset[Role],
    *,
    scorer: ClusterScorer,
    reference: Reference,
    visited: Sequence[int],
) -> StoredScores:
    """Everything that is known of ``groups`` before training, computed or read from the cache.

    Only the groups numbered in ``visited`` can be asked for: a short run computes no more.
    """
    rows = [row for group in groups for row in group]
    first_row = [0, *itertools.accumulate(len(group) for group in groups)]
    wanted = [row for group in visited for row in range(first_row[group], first_row[group + 1])]

    def logprobs(rows: Sequence[Example]) -> list[Tensor | None]:
        found: list[Tensor | None] = [None] * len(rows)
        for row, tensor in zip(
            wanted, reference.logprobs([rows[row] for row in wanted]), strict=True
        ):
            found[row] = tensor
        return found

    unrelated = None
    if Role.UNRELATED in roles:
        unrelated = unrelated_rows(groups, max_len=reference.config.data.max_len)
    return StoredScores(
        groups=groups,
        roles=roles,
        scorer=scorer,
        pad_token_id=reference.pad_token_id,
        first_row=first_row,
        reference=logprobs(rows) if Role.REFERENCE in roles else (),
        unrelated=None if unrelated is None else (unrelated, logprobs(unrelated)),
    )


def _known(logprobs: Sequence[Tensor | None], rows: Sequence[int]) -> list[Tensor]:
    found = [logprobs[row] for row in rows]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        row = rows[found.index(None)]
        raise ValueError(f"row {row} was not among those whose log-probs were asked for")
    return known


def _reward(row: Example) -> float:
    if not isinstance(row, Rated):
        raise ValueError("these rows have no reward: the method needs rated responses")
    return row.reward


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
