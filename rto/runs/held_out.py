"""Rows that are held out of an offline stage: when they are judged, and by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rto.card import Feedback
from rto.cluster.actors import Kind
from rto.data.examples import Example
from rto.data.storage.groups import Groups
from rto.errors import UserError, nearest
from rto.functional.segments import within_group_correlation
from rto.models.load import write_reward_constants
from rto.runs.best import EVAL
from rto.sections.run_config import RunConfig
from rto.tracking.timing import Timings
from rto.types import Role, ScoredBatch

Judge = Callable[[], dict[str, float]]
"""The metrics ``eval/*`` of the held-out rows under the policy as it is now."""


@dataclass
class HeldOut:
    """Implements ``Evaluator``: every ``every`` steps, where that is above 0, and after the last.

    ``judge`` is None where nothing is held out.
    """

    judge: Judge | None
    every: int
    last_step: int
    timings: Timings
    latest: dict[str, float] = field(default_factory=dict)

    def after(self, step: int) -> Mapping[str, float]:
        due = self.every > 0 and (step + 1) % self.every == 0
        if self.judge is None or not (due or step + 1 == self.last_step):
            return {}
        with self.timings.measure("evaluate"):
            self.latest = self.judge()
        return self.latest

    def final(self) -> dict[str, float]:
        """Of the policy that the run ends with, also where it made no step: a resumed run may have
        none left."""
        if self.judge is not None and not self.latest:
            self.latest = self.judge()
        return self.latest


def held_out_metrics(kind: Kind, feedback: Feedback, scored: ScoredBatch) -> dict[str, float]:
    """Reward model: accuracy and score constants. Policy: log-prob per token; then, by feedback,
    the pair accuracy, or the correlation of log-ratio and reward: over all rows, and within
    prompts where one has several responses."""
    mask, policy = scored.tokens.response_mask, scored[Role.POLICY]
    if kind == "score":
        chosen, rejected = policy[0::2], policy[1::2]
        return {
            "eval/accuracy": float((chosen > rejected).float().mean()),
            "eval/mean": float(policy.mean()),
            "eval/std": float(policy.std(correction=0)),
        }
    metrics = {"eval/nll_per_token": float(-policy[mask].mean())}
    ratio = policy.masked_fill(~mask, 0).sum(-1)
    if Role.REFERENCE in scored.scores:
        ratio = ratio - scored[Role.REFERENCE].masked_fill(~mask, 0).sum(-1)
        metrics["eval/log_ratio"] = float(ratio.mean())
    if feedback == "pairs":
        metrics["eval/accuracy"] = float((ratio[0::2] > ratio[1::2]).float().mean())
        metrics["eval/margin"] = float((ratio[0::2] - ratio[1::2]).mean())
    if feedback == "rewards":
        group, reward = scored.tokens.group, scored[Role.REWARD]
        everyone = torch.zeros_like(group)
        metrics["eval/row_correlation"] = within_group_correlation(ratio, reward, everyone)
        if len(group.unique()) < len(group):
            metrics["eval/reward_correlation"] = within_group_correlation(ratio, reward, group)
    return metrics


def best_held_out(
    kind: Kind, feedback: Feedback, rows: Groups[Sequence[Example]], config: RunConfig
) -> str:
    """The metric of held-out rows that chooses `best` where none is named: the accuracy of pairs,
    the correlation with the reward (higher is better), the nll of demonstrations (lower is).

    Empty where nothing is evaluated while training.

    Raises:
        UserError: eval.steps or ckpt.best_metric_key cannot be followed.
    """
    asked, wanted = config.eval.steps > 0, config.ckpt.best_metric_key
    if asked and not rows:
        raise UserError(
            f"eval.steps is {config.eval.steps} and no row is held out: give data.eval_dataset, or "
            "data.eval_ratio above 0"
        )
    known = _names(kind, feedback, several=bool(len(rows)) and int(rows.sizes.max()) > 1)
    if wanted.startswith(EVAL):
        if wanted not in known:
            advice = nearest(wanted, known) or f"one of {', '.join(known)}"
            raise UserError(f"ckpt.best_metric_key is {wanted!r}: {advice}")
        if not asked:
            raise UserError(
                f"ckpt.best_metric_key is {wanted}, which is measured every eval.steps: set that"
            )
    if config.eval.patience is not None and wanted and not wanted.startswith(EVAL):
        raise UserError(
            f"eval.patience counts evaluations of held-out rows and ckpt.best_metric_key is "
            f"{wanted}: name one of {', '.join(known)}"
        )
    return known[0] if asked else ""


def _names(kind: Kind, feedback: Feedback, *, several: bool) -> list[str]:
    """Of what ``held_out_metrics`` gives, what says how good a model is; the best one first."""
    nll = "eval/nll_per_token"
    if kind == "score":
        return ["eval/accuracy"]
    if feedback == "pairs":
        return ["eval/accuracy", "eval/margin", nll]
    if feedback == "demonstrations":
        return [nll]
    rows = ["eval/row_correlation", nll]
    return ["eval/reward_correlation", *rows] if several else rows


def add_reward_constants(path: Path, metrics: Mapping[str, float]) -> None:
    """Into the config of an exported reward model, where the scores of held-out rows are known."""
    if "eval/mean" in metrics:
        write_reward_constants(path, mean=metrics["eval/mean"], std=metrics["eval/std"])
