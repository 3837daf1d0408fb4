"""All figures of one policy: which are there, why others are not, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rto.evaluation import suite
from rto.evaluation.formats import Answers
from rto.evaluation.measured import Measured, MetricModels, Texts, Unavailable
from rto.evaluation.questions import Question
from rto.evaluation.suite import Figures, measure, pairs

QUESTIONS = [Question("a", ("q1", "q2"), "r"), Question("b", ("q3", "q4"))]
ANSWERS = Answers("m", [("one", "two"), ("three", "four")], [True, False])


NUMBERS = ("one", "two", "three", "four")


def words(texts: Texts, models: MetricModels) -> Measured:
    found = [word for text in texts.responses for word in text.split() if word in NUMBERS]
    return Measured(float(len(found)), 2)


def lacking(texts: Texts, models: MetricModels) -> Measured:
    raise ModuleNotFoundError("No module named 'tool'", name="tool")


@pytest.fixture(autouse=True)
def metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that can be had, and one whose package is not installed."""
    monkeypatch.setattr(suite, "METRICS", {"words": words, "lacking": lacking, "again": words})


def measured(names: Sequence[str] | None = None, **more: Any) -> Figures:
    options: dict[str, Any] = {"kl": None, "rewards": {}, "known_missing": {}}
    return measure(QUESTIONS, ANSWERS, names, models=MetricModels(), **{**options, **more})


def test_without_names_all_that_can_be_had_are_measured_and_the_others_say_why() -> None:
    found = measured()
    assert found.metrics.keys() == {"words", "again", "cut"}
    assert found.metrics["words"].value == 4, "of all turns of a conversation"
    assert found.missing == {
        "lacking": "lacking needs the package tool: pip install 'rto-rlhf[eval]'"
    }


def test_a_metric_that_was_asked_for_by_name_must_be_had() -> None:
    assert measured(["words", "kl"]).metrics.keys() == {"words", "cut"}
    with pytest.raises(Unavailable, match="lacking needs the package tool"):
        measured(["lacking"])


def test_what_is_known_to_be_missing_is_not_tried_again() -> None:
    found = measured(known_missing={"words": "said before"})
    assert "words" not in found.metrics
    assert found.missing["words"] == "said before"


def test_responses_that_were_cut_are_counted() -> None:
    answers = Answers("m", [("one", "two")] * 4, [True, False, True, True])
    options: dict[str, Any] = {"kl": None, "rewards": {}, "known_missing": {}}
    found = measure(QUESTIONS[:1] * 4, answers, [], models=MetricModels(), **options)
    assert found.metrics["cut"] == Measured(0.25, 4)


def test_kl_and_each_reward_model_are_means_over_the_prompts() -> None:
    rewards = {"m1": np.array([1.0, 3.0]), "m2": np.array([0.0, 0.0])}
    found = measured(kl=np.array([4.0, 6.0]), rewards=rewards).metrics
    assert (found["reward"].value, found["reward_1"].value, found["kl"].value) == (2, 0, 5)
    assert (found["reward"].source, found["reward_1"].source) == ("m1", "m2")


def test_a_judge_compares_whole_conversations() -> None:
    other = Answers("b", [("x", "y"), ("z", "w")], [True, True])
    first, _ = pairs(QUESTIONS, ANSWERS, other)
    texts = (first.instruction, first.model, first.baseline)
    assert [part in text for text, part in zip(texts, ("q2", "two", "y"), strict=True)] == [
        True
    ] * 3
