"""Layouts of stored feedback: the columns each one has, and the responses that a row holds.

A prompt stands in the column "prompt" or "instruction", as text or as a list of messages. A
response may be a list of messages too: its last message is the response.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from rto.data.sources import require_text
from rto.data.templates import Where, check_messages
from rto.errors import UserError

Row = Mapping[str, Any]
PROMPT_COLUMNS = ("prompt", "instruction")


@dataclass(frozen=True)
class Answer:
    """A response and its reward as a row stores them, unchecked, and the fields they stand in.

    ``problem`` says why the row could not be taken apart here. ``corrected`` is True where the
    stored reward is a known mistake and ``reward`` is not the stored one.
    """

    text: object
    reward: object
    field: str
    reward_field: str
    problem: str = ""
    corrected: bool = False


@dataclass(frozen=True)
class Layout:
    """``columns`` beside the prompt's tell a layout; ``answers`` takes one row of them apart.

    In a ``paired`` layout a row's two answers are chosen and rejected. The rewards of a layout that
    is not ``rated`` only rank them. ``binary`` rewards are 1 and 0.
    """

    name: str
    columns: tuple[str, ...]
    answers: Callable[[Row], Iterator[Answer]]
    paired: bool = False
    rated: bool = True
    binary: bool = False

    def prompt_column(self, rows: Dataset) -> str:
        return next(name for name in PROMPT_COLUMNS if name in rows.column_names)

    def missing(self, rows: Dataset) -> list[str]:
        """The columns that ``rows`` would need, too, to have this layout."""
        have = set(rows.column_names)
        prompt = [] if have.intersection(PROMPT_COLUMNS) else [" or ".join(PROMPT_COLUMNS)]
        return prompt + [name for name in self.columns if name not in have]


def _nested(row: Row) -> Iterator[Answer]:
    for i, item in enumerate(row["responses"] or []):
        field = f"responses[{i}]"
        if not isinstance(item, dict) or not {"text", "reward"} <= item.keys():
            yield Answer(None, None, field, field, problem="is not a {text, reward} pair")
        else:
            yield Answer(item["text"], item["reward"], f"{field}.text", field)


def _flat(row: Row) -> Iterator[Answer]:
    yield Answer(row["response"], row["reward"], "response", "reward")


def _pairs(*columns: str) -> Callable[[Row], Iterator[Answer]]:
    """Of the columns (chosen, rejected, chosen's reward, rejected's reward)."""
    chosen, rejected, chosen_reward, rejected_reward = columns

    def answers(row: Row) -> Iterator[Answer]:
        yield Answer(row[chosen], row[chosen_reward], chosen, chosen_reward)
        yield Answer(row[rejected], row[rejected_reward], rejected, rejected_reward)

    return answers


def _preferences(row: Row) -> Iterator[Answer]:
    yield Answer(row["chosen"], 1.0, "chosen", "chosen")
    yield Answer(row["rejected"], 0.0, "rejected", "rejected")


def _unpaired(row: Row) -> Iterator[Answer]:
    label = row["label"]
    if label in (True, False):
        yield Answer(row["completion"], float(label), "completion", "label")
    else:
        yield Answer(None, None, "label", "label", f"is {label!r}: must be true or false")


def _overall_score(row: Row) -> Iterator[Answer]:
    """UltraFeedback's overall score. Of its 10s, those with a mean rating up to 2 were 1s that
    lost their decimal point (corrected in the release of 29 December 2023)."""
    for field, item, problem in _completions(row):
        score, mean = item.get("overall_score"), _mean_rating(item)
        wrong = score == 10 and mean is not None and mean <= 2
        reward = 1.0 if wrong else score
        text, score_field = item.get("response"), f"{field}.overall_score"
        yield Answer(text, reward, f"{field}.response", score_field, problem, corrected=wrong)


def _mean_ratings(row: Row) -> Iterator[Answer]:
    """The mean of UltraFeedback's four ratings, 1 to 5."""
    for field, item, problem in _completions(row):
        reward_field = f"{field}.annotations"
        text = item.get("response")
        yield Answer(text, _mean_rating(item), f"{field}.response", reward_field, problem)


def _completions(row: Row) -> Iterator[tuple[str, Row, str]]:
    for i, item in enumerate(row["completions"] or []):
        known = isinstance(item, dict) and "response" in item
        problem = "" if known else "is not a completion with a response"
        yield f"completions[{i}]", item if known else {}, problem


def _mean_rating(item: Row) -> float | None:
    """The mean of the ratings that are numbers ("N/A" is none), or the stored mean of them."""
    aspects = (item.get("annotations") or {}).values()
    stored = [str(aspect.get("Rating")) for aspect in aspects if isinstance(aspect, dict)]
    ratings = [float(rating) for rating in stored if rating.replace(".", "", 1).isdigit()]
    return sum(ratings) / len(ratings) if ratings else item.get("fine-grained_score")


_CHOSEN_REWARD = ("chosen_reward", "rejected_reward")
_SCORE_CHOSEN = ("score_chosen", "score_rejected")
_SIDES = ("chosen", "rejected")
_RESPONSES = ("chosen_response", "rejected_response")


def _pair_layout(name: str, *columns: str) -> Layout:
    return Layout(name, columns, _pairs(*columns), paired=True)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("nested", ("responses",), _nested),
        Layout("ultrafeedback", ("completions",), _overall_score),
        Layout("ultrafeedback_mean_rating", ("completions",), _mean_ratings),
        Layout("flat", ("response", "reward"), _flat),
        _pair_layout("pairs", *_SIDES, *_CHOSEN_REWARD),
        _pair_layout("nemo", *_RESPONSES, *_CHOSEN_REWARD),
        _pair_layout("binarized", *_SIDES, *_SCORE_CHOSEN),
        Layout("unpaired", ("completion", "label"), _unpaired, binary=True),
        Layout("preferences", _SIDES, _preferences, paired=True, rated=False, binary=True),
    )
}
"""By name; the first one whose columns are all there is the layout of a data set."""


def find_layout(rows: Dataset, source: str, *, name: str | None = None) -> Layout:
    """The layout called ``name``, or the one that the columns tell.

    Raises:
        UserError: no layout has these columns, or they are not those of ``name``.
    """
    have = ", ".join(rows.column_names)
    if name is not None:
        if name not in LAYOUTS:
            raise UserError(f"unknown layout {name!r}: one of {', '.join(LAYOUTS)}")
        missing = LAYOUTS[name].missing(rows)
        if missing:
            raise UserError(
                f"{source}: layout {name} needs the column {missing[0]} (columns: {have})"
            )
        return LAYOUTS[name]
    rewards = {*_CHOSEN_REWARD, *_SCORE_CHOSEN}.intersection(rows.column_names)
    for layout in LAYOUTS.values():
        if not layout.missing(rows) and (layout.rated or not rewards):
            return layout
    raise UserError(
        f"{source}: no known layout of feedback (columns: {have}); give prompt with responses, or "
        "prompt, response, reward, or prompt, chosen, rejected with chosen_reward and "
        "rejected_reward"
    )


def require_rated(layout: Layout, source: str) -> None:
    """
    Raises:
        UserError: the data set ranks responses, but nothing says by how much.
    """
    if not layout.rated:
        raise UserError(
            f"{source}: layout {layout.name} has no rewards: add the columns chosen_reward and "
            "rejected_reward, or use it as pairs (rto dpo, rto reward)"
        )


def read_prompt(value: object, where: Where) -> object:
    """The prompt: a text with something in it, or a list of messages."""
    if isinstance(value, list):
        return check_messages(value, where)
    return require_text(value, source=where.source, row=where.row, field=where.field)


def read_text(answer: Answer, *, source: str, row: int) -> str:
    """The response as text."""
    if answer.problem:
        name = answer.field.partition(".")[0]
        raise Where(source, row, name).error(f"{answer.problem}; repair or drop the row")
    value: Any = answer.text
    last = value[-1] if isinstance(value, list) and value else None
    text = last.get("content") if isinstance(last, dict) else value
    return require_text(text, source=source, row=row, field=answer.field)


def read_reward(answer: Answer, *, source: str, row: int) -> float:
    """The reward as a finite number."""
    value = answer.reward
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        where = Where(source, row, answer.reward_field)
        raise where.error(f"has reward {value!r}: must be a finite number; repair or drop the row")
    return float(value)
