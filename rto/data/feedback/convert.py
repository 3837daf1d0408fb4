"""Convert feedback from one layout to another; rewards may be rescaled or turned into labels."""

from __future__ import annotations

import json
import statistics
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset

from rto.data.feedback.layouts import Layout, require_rated
from rto.data.feedback.read import Feedback, Source, read_feedback
from rto.data.sampler import permutation
from rto.data.storage.keys import digest
from rto.errors import UserError, foreign

Target = Literal["nested", "flat", "pairs", "unpaired", "sft", "prompts"]
Normalise = Literal["none", "zscore", "per_prompt"]
Duplicates = Literal["mean", "keep"]
Threshold = Literal["mean", "median"] | float


@dataclass(frozen=True)
class Scale:
    """reward -> (reward - mean) / std."""

    mean: float = 0.0
    std: float = 1.0

    def apply(self, row: Feedback) -> Feedback:
        scaled = tuple((text, (reward - self.mean) / self.std) for text, reward in row.responses)
        return replace(row, responses=scaled)


def zscore(rewards: array[float]) -> Scale:
    """Mean 0 and population variance 1 over these rewards: the training split's."""
    std = float(np.std(rewards))
    if std == 0:
        raise UserError("zscore: all rewards are equal, there is nothing to learn from them")
    return Scale(float(np.mean(rewards)), std)


def per_prompt(row: Feedback) -> Feedback:
    """Mean 0 and population variance 1 among a prompt's responses; equal rewards become 0."""
    rewards = [reward for _, reward in row.responses]
    return Scale(statistics.fmean(rewards), statistics.pstdev(rewards) or 1.0).apply(row)


def held_out(rows: Iterable[Feedback], *, ratio: float, seed: int) -> set[bytes]:
    """Digests of the prompts that are kept for evaluation; the rest is the training split."""
    prompts = list(dict.fromkeys(digest(row.prompt) for row in rows))
    size = round(ratio * len(prompts))
    if not 0 < size < len(prompts):
        raise UserError(
            f"a split of {ratio} holds out {size} of {len(prompts)} prompts: both sides need one"
        )
    return {prompts[i] for i in permutation(len(prompts), seed=seed, epoch=0)[:size]}


def to_rows(
    row: Feedback, target: Target, threshold: float, layout: Layout
) -> Iterator[dict[str, object]]:
    """The rows that one prompt becomes.

    Pairs are the best response against each one with a lower reward, as in training; without
    their rewards where those only rank. Labels are reward >= threshold. Demonstrations are the
    best response to each prompt, if its verdict is not the bad one.
    """
    prompt, responses = row.prompt, row.responses
    match target:
        case "nested":
            yield {"prompt": prompt, "responses": _nested(responses)}
        case "sft":
            if not row.disliked:
                yield {"prompt": prompt, "response": responses[0][0]}
        case "prompts":
            yield {"prompt": prompt}
        case "flat":
            for text, reward in responses:
                yield {"prompt": prompt, "response": text, "reward": reward}
        case "unpaired":
            for text, reward in responses:
                yield {"prompt": prompt, "completion": text, "label": reward >= threshold}
        case "pairs":
            yield from _pairs(row, rated=layout.rated)


def _nested(responses: Sequence[tuple[str, float]]) -> list[dict[str, object]]:
    return [{"text": text, "reward": reward} for text, reward in responses]


def _pairs(row: Feedback, *, rated: bool) -> Iterator[dict[str, object]]:
    best, highest = row.responses[0]
    for text, reward in row.responses[1:]:
        if reward < highest and text != best:
            pair = {"prompt": row.prompt, "chosen": best, "rejected": text}
            rewards = {"chosen_reward": highest, "rejected_reward": reward}
            yield {**pair, **rewards} if rated else pair


@dataclass(frozen=True)
class Written:
    """A file and what it holds.

    ``num_empty`` of its prompts gave no row, ``num_merged`` responses repeated another one.
    """

    path: Path
    num_rows: int = 0
    num_prompts: int = 0
    num_empty: int = 0
    num_merged: int = 0

    def plus(self, num_rows: int, num_merged: int) -> Written:
        return Written(
            self.path,
            self.num_rows + num_rows,
            self.num_prompts + 1,
            self.num_empty + (num_rows == 0),
            self.num_merged + num_merged,
        )


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A data set, and the layout and rewards that it is to have.

    ``threshold`` None is 0.5 where the source holds labels, else the mean. ``split`` is the share
    of the prompts that is held out; constants come from the others.

    Raises:
        UserError: the target needs rewards that the source does not have.
    """

    rows: Dataset
    layout: Layout
    source: str
    to: Target
    normalise: Normalise = "none"
    threshold: Threshold | None = None
    duplicates: Duplicates = "mean"
    split: float | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.to in ("nested", "flat") or self.normalise != "none":
            require_rated(self.layout, self.source)
        if self.threshold is not None and self.to != "unpaired":
            raise UserError(f"--threshold makes labels: it needs --to unpaired, not {self.to}")
        if self.normalise != "none" and self.to in ("sft", "prompts"):
            raise UserError(f"--normalise changes rewards: --to {self.to} writes none")

    @property
    def why(self) -> str:
        """What a prompt lacks that gives no row."""
        return {
            "pairs": "a pair takes two responses with different rewards",
            "sft": "a demonstration takes a response with a good verdict",
        }.get(self.to, "there is none")

    def write(self, paths: Sequence[Path]) -> list[Written]:
        """One file, or training and evaluation; they are there when all rows were readable."""
        drafts = [path.with_name(f"{path.name}.partial") for path in paths]
        try:
            with foreign(f"{paths[0]}: cannot write it"):
                written = self._write(paths, drafts)
                for draft, path in zip(drafts, paths, strict=True):
                    draft.replace(path)
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)
        return written

    def _write(self, paths: Sequence[Path], drafts: Sequence[Path]) -> list[Written]:
        held = self._held_out()
        scale = self._scale(held)
        threshold = self._threshold(held, scale) if self.to == "unpaired" else 0.0
        written = [Written(path) for path in paths]
        with ExitStack() as stack:
            files = [stack.enter_context(draft.open("w", encoding="utf-8")) for draft in drafts]
            for row in self._feedback():
                side = int(digest(row.prompt) in held)
                converted = list(to_rows(scale(row), self.to, threshold, self.layout))
                files[side].writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in converted)
                written[side] = written[side].plus(len(converted), row.num_merged)
        for side in written:
            if not side.num_rows:
                raise UserError(f"{side.path}: no prompt of {self.source} gives a row: {self.why}")
        return written

    def _feedback(self) -> Iterator[Feedback]:
        """Prompts with rewards as stored, duplicates merged where that is asked for."""
        source = Source(self.source, self.rows, self.layout)
        return read_feedback(
            [source],
            keep_pairs=self.to in ("pairs", "unpaired"),
            merge=self.duplicates == "mean",
        )

    def _held_out(self) -> set[bytes]:
        if self.split is None:
            return set()
        return held_out(self._feedback(), ratio=self.split, seed=self.seed)

    def _scale(self, held: set[bytes]) -> Callable[[Feedback], Feedback]:
        match self.normalise:
            case "none":
                return Scale().apply
            case "zscore":
                return zscore(self._rewards(held, Scale().apply)).apply
            case "per_prompt":
                return per_prompt

    def _threshold(self, held: set[bytes], scale: Callable[[Feedback], Feedback]) -> float:
        """In the rewards as they are written."""
        if self.threshold is None and self.layout.binary:
            return 0.5
        if isinstance(self.threshold, float):
            return self.threshold
        rewards = self._rewards(held, scale)
        return float(np.median(rewards) if self.threshold == "median" else np.mean(rewards))

    def _rewards(self, held: set[bytes], scale: Callable[[Feedback], Feedback]) -> array[float]:
        """Of the training split."""
        train = (row for row in self._feedback() if digest(row.prompt) not in held)
        return array("d", (reward for row in train for _, reward in scale(row).responses))
