"""The best value of a metric so far: what chooses the `best` export, and may end a run early."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import TypedDict, cast

LOWER_IS_BETTER = ("loss", "nll", "perplexity")
"""Metrics with one of these in their name are better the lower they are."""

EVAL = "eval/"
"""Area of the metrics of held-out rows."""


class BestSoFar(TypedDict):
    """What chose the `best` export until a step."""

    key: str
    lower: bool
    patience: int | None
    value: float | None
    step: int
    waited: int


@dataclass(frozen=True)
class Best:
    """The best value of one metric so far. ``waited`` counts what was judged since and no better;
    ``patience`` of that ends the run."""

    key: str = ""
    lower: bool = False
    patience: int | None = None
    value: float | None = None
    step: int = -1
    waited: int = 0

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def judged(self, step: int, value: float) -> Best:
        """With the value of one more step; an equal one is no better."""
        before = self.value
        if before is None or (value < before if self.lower else value > before):
            return replace(self, value=value, step=step, waited=0)
        return replace(self, waited=self.waited + 1)

    def kept(self) -> BestSoFar:
        """As a checkpoint holds it."""
        return cast(BestSoFar, dataclasses.asdict(self))

    def restored(self, kept: BestSoFar | None) -> Best:
        """As a checkpoint has it; where that chose by another metric, the choice begins anew."""
        if kept is None or (kept["key"], kept["lower"]) != (self.key, self.lower):
            return self
        return replace(self, value=kept["value"], step=kept["step"], waited=kept["waited"])


def lower_is_better(key: str, mode: str) -> bool:
    """What ``ckpt.best_metric_mode`` means for a metric."""
    if mode != "auto":
        return mode == "min"
    return any(part in LOWER_IS_BETTER for part in key.split("/")[-1].split("_"))
