"""Three responses with references, and what a metric says of them."""

from __future__ import annotations

from rto.evaluation.measured import MetricModels, Texts
from rto.evaluation.metrics import METRICS

MODELS = MetricModels()
RESPONSES = ["the cat sat on the mat", "a dog ran in the big park today", "no"]
REFERENCES = ["the cat is on the mat", "the dog ran in the big park", "yes it is"]
TEXTS = Texts(RESPONSES, REFERENCES)


def value(name: str, texts: Texts = TEXTS) -> float:
    return METRICS[name](texts, MODELS).value
