"""Compute all figures of one policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rto.data.templates import Template, Where
from rto.evaluation.formats import Answers
from rto.evaluation.judge import JudgedPair
from rto.evaluation.measured import Measured, MetricModels, Texts, Unavailable, mean
from rto.evaluation.metrics import METRICS
from rto.evaluation.questions import Question, joined, messages
from rto.scoring.server import ServedRewardModel


@dataclass(frozen=True)
class Figures:
    """Metrics by name, and why others are missing."""

    metrics: Mapping[str, Measured]
    missing: Mapping[str, str]


def measure(
    questions: Sequence[Question],
    answers: Answers,
    names: Sequence[str] | None,
    *,
    models: MetricModels,
    kl: np.ndarray | None,
    rewards: Mapping[str, np.ndarray],
    known_missing: Mapping[str, str],
) -> Figures:
    """The text metrics called ``names``, KL and rewards; without names all that can be had.

    ``rewards`` holds scores [N] by reward model. What is ``known_missing`` is not tried again.

    Raises:
        Unavailable: a metric that was asked for by name.
    """
    texts = Texts([joined(turns) for turns in answers.turns], [q.reference for q in questions])
    values: dict[str, Measured] = {}
    missing: dict[str, str] = {}
    for name in METRICS if names is None else [n for n in names if n in METRICS]:
        if name in known_missing:
            missing[name] = known_missing[name]
            continue
        try:
            values[name] = _computed(name, texts, models)
        except Unavailable as error:
            if names is not None:
                raise
            missing[name] = str(error)
    values |= {
        f"reward_{i}" if i else "reward": mean(scores, source=path)
        for i, (path, scores) in enumerate(rewards.items())
    }
    if kl is not None:
        values["kl"] = mean(kl)
    cut = np.array([not finished for finished in answers.finished])
    values["cut"] = Measured(float(cut.mean()), len(cut))
    return Figures(values, missing)


def reward_scores(
    path: str,
    questions: Sequence[Question],
    answers: Answers,
    *,
    source: str,
    chat_template: str | None = None,
) -> np.ndarray:
    """Raw scores [N] of the last response of each conversation by a reward model.

    It reads the conversation as its training rendered prompts, or, where its folder does not say
    how, through its own chat template if it has one; and the end of turn after a response that
    ended. ``chat_template`` chooses one of several; ``source`` is where the questions stand, for
    messages.
    """
    model = ServedRewardModel(path, max_batch=16, chat_template=chat_template)
    told = model.trained_with.apply_chat_template
    has_chat = bool(model.template.tokenizer.chat_template)
    template = replace(model.template, apply_chat_template=has_chat if told is None else told)
    rows = [
        template.pair_ids(
            *_as_read(question, turns, template, question.where(source)), finished=finished
        )
        for question, turns, finished in zip(
            questions, answers.turns, answers.finished, strict=True
        )
    ]
    return np.array(model.scores(rows))


def _as_read(
    question: Question, turns: Sequence[str], template: Template, where: Where
) -> tuple[str, str]:
    """The texts of a conversation up to its last answer, and of that answer."""
    if not template.apply_chat_template:
        told = [text for pair in zip(question.turns, turns, strict=True) for text in pair]
        return "\n".join(told[:-1]), told[-1]
    asked = messages(question, turns[:-1])
    return template.prompt(asked, where), template.response(asked, turns[-1].strip(), where)


def pairs(questions: Sequence[Question], model: Answers, baseline: Answers) -> list[JudgedPair]:
    """What a judge compares, question by question."""
    return [
        JudgedPair(question.id, joined(question.turns), joined(ours), joined(theirs))
        for question, ours, theirs in zip(questions, model.turns, baseline.turns, strict=True)
    ]


def _computed(name: str, texts: Texts, models: MetricModels) -> Measured:
    try:
        return METRICS[name](texts, models)
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"{name} needs the package {error.name}: pip install 'rto-rlhf[eval]'"
        ) from error
