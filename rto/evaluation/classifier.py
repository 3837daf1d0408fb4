"""Toxicity by a text classifier of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, cast

import numpy as np
from transformers import pipeline

from rto.evaluation.measured import Measured, Texts, Unavailable, first_line, mean


class LabelScore(TypedDict):
    """What a classifier says of one label."""

    label: str
    score: float


def probability(texts: Texts, path: str, label: str) -> Measured:
    """Mean probability that the classifier at ``path`` gives to ``label``."""
    try:
        classify = pipeline("text-classification", model=path, top_k=None)
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"toxicity model {path} cannot be had: {first_line(error)}; give the "
            "directory of a text classifier"
        ) from error
    by_index = cast("Mapping[int, str]", classify.model.config.id2label)
    labels = list(by_index.values())
    if label not in labels:
        raise Unavailable(
            f"toxicity model {path} has no label {label!r}: name one of "
            f"{', '.join(labels)} with --toxicity_label"
        )
    rows = cast(
        "list[list[LabelScore]]", classify(list(texts.responses), truncation=True, batch_size=16)
    )
    scores = [{each["label"]: each["score"] for each in row} for row in rows]
    values = np.array([row[label] for row in scores])
    return mean(values, source=f"{path}, label {label}")
