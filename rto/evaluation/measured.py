"""What a metric is computed from and what it gives. Each metric takes the responses and their
references in the order of the prompts; one that cannot be computed says why (``Unavailable``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rto.errors import UserError
from rto.evaluation.statistics import bootstrap


class Unavailable(UserError):
    """A metric cannot be had: what is missing and how to get it."""


@dataclass(frozen=True)
class Measured:
    """A metric over ``num`` responses; ``ci95`` where it is a mean over prompts.

    ``source`` names the model behind it, where one is.
    """

    value: float
    num: int
    ci95: tuple[float, float] | None = None
    source: str = ""


@dataclass(frozen=True)
class MetricModels:
    """The models that metrics load: hub ids or directories."""

    bertscore: str = "roberta-large"
    bertscore_layers: int | None = None
    toxicity: str | None = None
    toxicity_label: str = "hate"


@dataclass(frozen=True)
class Texts:
    """Responses, and a reference for each or None."""

    responses: Sequence[str]
    references: Sequence[str | None]

    def referenced(self) -> tuple[list[str], list[str]]:
        """The responses that have a reference, and those references.

        Raises:
            Unavailable: none has one.
        """
        pairs = [
            (response, reference)
            for response, reference in zip(self.responses, self.references, strict=True)
            if reference is not None
        ]
        if not pairs:
            raise Unavailable("the prompts have no references: name their column, --reference_key")
        responses, references = zip(*pairs, strict=True)
        return list(responses), list(references)


TextMetric = Callable[[Texts, MetricModels], Measured]
"""A metric of responses; ``MetricModels`` says which models it may load."""


def mean(values: np.ndarray, *, source: str = "") -> Measured:
    """A mean over prompts with its 95% bootstrap interval."""
    interval = bootstrap(values)
    return Measured(interval.mean, len(values), interval.ci95, source)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
