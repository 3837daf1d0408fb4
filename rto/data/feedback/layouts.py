"""Layouts of stored feedback: the columns each one has, and the responses that a row holds.

A prompt is in the column "prompt" or "instruction", as text or as a list of messages. A response
may be a list of messages too: the last message is the answer, the others belong to the prompt.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from datasets import ClassLabel, Dataset

from rto.data.conversations import split_conversation
from rto.data.feedback.verdicts import is_verdict, verdict
from rto.data.sources import read_rows, require_text
from rto.data.storage.row_files import holds_texts
from rto.data.templates import Where, check_messages
from rto.errors import UserError

Row = Mapping[str, object]
PROMPT_COLUMNS = ("prompt", "instruction")
HEAD = 64
"""Rows in which a first reward is looked for."""
MAX_REWARD = 3.4028234663852886e38
"""The largest number of float32, which rewards become."""


@dataclass(frozen=True)
class Answer:
    """A response and its reward as a row stores them, unchecked, with the names of their fields.

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
    is not ``rated`` only rank them. ``binary`` rewards are verdicts and become 1 and 0; those of
    the column ``verdicts`` may be. A layout that is not ``prompted`` holds its prompt in the
    response. Rewards that are ``texts`` are read as numbers: a csv file has no other. ``classes``
    are the names that a data set has for the numbers of a column (ClassLabel).
    """

    name: str
    columns: tuple[str, ...]
    answers: Callable[[Row], Iterator[Answer]]
    paired: bool = False
    rated: bool = True
    binary: bool = False
    prompted: bool = True
    verdicts: str | None = None
    texts: bool = False
    classes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def prompt_column(self, rows: Dataset) -> str:
        """The column that holds the prompt of a row."""
        if not self.prompted:
            return self.columns[0]
        return next(name for name in PROMPT_COLUMNS if name in rows.column_names)

    def needed(self, rows: Dataset) -> list[str]:
        """All columns that the rows are read from."""
        return list(dict.fromkeys([self.prompt_column(rows), *self.columns]))

    def missing(self, rows: Dataset) -> list[str]:
        """The columns that ``rows`` would need, too, to have this layout."""
        have = set(rows.column_names)
        lacks = self.prompted and not have.intersection(PROMPT_COLUMNS)
        prompt = [" or ".join(PROMPT_COLUMNS)] if lacks else []
        return prompt + [name for name in self.columns if name not in have]

    def of(self, rows: Dataset) -> Layout:
        """This layout for these rows: their first reward decides whether rewards are verdicts."""
        layout = dataclasses.replace(self, texts=holds_texts(rows), classes=class_names(rows))
        if self.verdicts is None:
            return layout
        head = rows.select_columns([self.verdicts]).select(range(min(len(rows), HEAD)))
        values = (row[self.verdicts] for row in read_rows(head))
        first = next((value for value in values if value is not None), None)
        names = layout.classes.get(self.verdicts)
        binary = any(map(is_verdict, names)) if names else is_verdict(first)
        return dataclasses.replace(layout, binary=binary)


def class_names(rows: Dataset) -> dict[str, Sequence[str]]:
    """{column: the names of its numbers}: the order of the names says nothing of their meaning."""
    classes = {name: kind for name, kind in rows.features.items() if isinstance(kind, ClassLabel)}
    return {name: kind.names for name, kind in classes.items()}


def _nested(row: Row) -> Iterator[Answer]:
    for field, item, problem in _items(row, "responses"):
        if not problem and isinstance(item, dict) and {"text", "reward"} <= item.keys():
            yield Answer(item["text"], item["reward"], f"{field}.text", field)
        else:
            problem = problem or "is not a {text, reward} pair"
            yield Answer(None, None, field, field, problem=problem)


def _items(row: Row, column: str) -> Iterator[tuple[str, object, str]]:
    """(field, item, problem) of a column of lists."""
    value = row[column]
    if value is not None and not isinstance(value, list):
        yield column, None, f"is a {type(value).__name__}, not a list"
        return
    for i, item in enumerate(value or []):
        yield f"{column}[{i}]", item, ""


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


def _rated(text: str, reward: str) -> Callable[[Row], Iterator[Answer]]:
    """One response, of these two columns."""

    def answers(row: Row) -> Iterator[Answer]:
        yield Answer(row[text], row[reward], text, reward)

    return answers


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
    for field, item, problem in _items(row, "completions"):
        if isinstance(item, dict) and "response" in item:
            yield field, item, problem
        else:
            yield field, {}, problem or "is not a completion with a response"


def _mean_rating(item: Row) -> float | None:
    """The mean of the ratings that are numbers ("N/A" is none), or the stored mean of them."""
    annotations = item.get("annotations")
    aspects = annotations.values() if isinstance(annotations, dict) else ()
    stored = [str(aspect.get("Rating")) for aspect in aspects if isinstance(aspect, dict)]
    ratings = [float(rating) for rating in stored if rating.replace(".", "", 1).isdigit()]
    if ratings:
        return sum(ratings) / len(ratings)
    return cast("float | None", item.get("fine-grained_score"))


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
        Layout("flat", ("response", "reward"), _rated("response", "reward"), verdicts="reward"),
        _pair_layout("pairs", *_SIDES, *_CHOSEN_REWARD),
        _pair_layout("nemo", *_RESPONSES, *_CHOSEN_REWARD),
        _pair_layout("binarized", *_SIDES, *_SCORE_CHOSEN),
        Layout("unpaired", ("completion", "label"), _rated("completion", "label"), binary=True),
        Layout("thumbs", ("response", "label"), _rated("response", "label"), binary=True),
        Layout("preferences", _SIDES, _preferences, paired=True, rated=False, binary=True),
        Layout(
            "messages",
            ("messages", "rating"),
            _rated("messages", "rating"),
            prompted=False,
            verdicts="rating",
        ),
    )
}
"""By name; the first one whose columns are all there is the layout of a data set."""

OTHER_NAMES = {
    "prompt": ("question", "query", "input", "user", "request", "x"),
    "response": ("answer", "output", "completion", "text", "reply", "assistant", "generation", "y"),
    "reward": ("score", "rating", "feedback", "thumbs", "thumb", "vote", "value", "rank", "label"),
    "messages": ("conversation", "conversations", "chat", "dialogue", "dialog", "turns"),
    "chosen": ("preferred", "winner", "accepted", "better", "chosen_response", "response_j"),
    "rejected": ("dispreferred", "loser", "worse", "rejected_response", "response_k"),
}
OTHER_NAMES |= {
    "instruction": OTHER_NAMES["prompt"],
    "completion": ("response", *OTHER_NAMES["response"]),
    "rating": ("reward", *OTHER_NAMES["reward"]),
    "label": ("thumbs", "thumb", "vote", "feedback", "like", "liked", "verdict"),
}
"""What logs call these columns."""


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
        return LAYOUTS[name].of(rows)
    layout = told_layout(rows)
    if layout is None:
        raise UserError(
            f"{source}: no known layout of feedback (columns: {have}); {nearest_layout(rows)}"
        )
    return layout.of(rows)


def told_layout(rows: Dataset) -> Layout | None:
    """The layout that the columns tell, if any. Pairs with half of their rewards have none."""
    rewards = {*_CHOSEN_REWARD, *_SCORE_CHOSEN}.intersection(rows.column_names)
    fitting = (x for x in LAYOUTS.values() if not x.missing(rows) and (x.rated or not rewards))
    return next(fitting, None)


def nearest_layout(rows: Dataset) -> str:
    """The layout that lacks least, and the names that would give these columns that layout."""

    def lacking(layout: Layout) -> tuple[int, int, int, int]:
        renamed = _renaming(layout, rows.column_names)
        missing = layout.missing(rows)
        guesses = sum(_is_name(old, new) is None for new, old in renamed.items())
        return len(missing) - len(renamed), guesses, len(missing), -len(layout.columns)

    nearest = min(LAYOUTS.values(), key=lacking)
    renamed = _renaming(nearest, rows.column_names)
    lacks = [name for name in nearest.missing(rows) if name.partition(" or ")[0] not in renamed]
    said = f"the nearest is {nearest.name}"
    if lacks:
        said += f", which lacks the column {' and '.join(lacks)}"
    mapping = ",".join(f"{new}={old}" for new, old in renamed.items())
    example = mapping or "prompt=question,response=answer,reward=score"
    return f"{said}: name columns with data.columns{',' if lacks else ''} as in {example}"


def _renaming(layout: Layout, names: Sequence[str]) -> dict[str, str]:
    """{column of the layout: the column of ``names`` that may be it}."""
    prompt = [] if not layout.prompted or set(PROMPT_COLUMNS) & set(names) else ["prompt"]
    wanted = [name for name in (*prompt, *layout.columns) if name not in names]
    free = [name for name in names if name not in layout.columns and name not in PROMPT_COLUMNS]
    known = {column for each in LAYOUTS.values() for column in each.columns}
    renames: dict[str, str] = {}
    for new in wanted:
        ranks = {old: rank for old in free if (rank := _is_name(old, new)) is not None}
        near = sorted(ranks, key=lambda old: ranks[old])
        unknown = [old for old in free if old not in known]
        near += difflib.get_close_matches(new, unknown, 1, 0.8)
        if near:
            renames[new] = near[0]
            free.remove(near[0])
    return renames


def _is_name(old: str, new: str) -> int | None:
    """How near ``old`` is to the names that logs have for ``new``, 0 for its own; None for none."""
    names = (new, *OTHER_NAMES.get(new, ()))
    name = old.strip().lower()
    return names.index(name) if name in names else None


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


def read_answer(answer: Answer, prompt: object, where: Where) -> tuple[object, str]:
    """(prompt, response as text); turns of the response that come before it join the prompt.

    ``prompt`` is the row's, None where the response holds it; ``where`` is the row's place.
    """
    if answer.problem:
        field = answer.field.partition(".")[0]
        raise Where(where.source, where.row, field).error(
            f"{answer.problem}; repair or drop the row"
        )
    return split_conversation(prompt, answer.text, Where(where.source, where.row, answer.field))


def read_reward(answer: Answer, layout: Layout, where: Where) -> float:
    """The reward as a number of float32, or 1 or 0 of a verdict."""
    where = Where(where.source, where.row, answer.reward_field)
    names = layout.classes.get(answer.reward_field)
    value = answer.reward if names is None else _class_name(answer.reward, names, where)
    if layout.binary:
        liked = verdict(value)
        if liked is None:
            raise where.error(
                f"is {value!r:.60}: must be true or false (or yes and no, up and down, 1 and 0, "
                "+1 and -1); repair or drop the row"
            )
        return float(liked)
    number = _number(value, from_text=layout.texts or names is not None)
    if number is None or not math.isfinite(number):
        raise where.error(
            f"has reward {value!r:.60}: must be a finite number; repair or drop the row"
        )
    if abs(number) > MAX_REWARD:
        raise where.error(
            f"has reward {value!r:.60}, which is infinite in float32: scale the rewards, or repair "
            "or drop the row"
        )
    return number


def _class_name(value: object, names: Sequence[str], where: Where) -> object:
    if not isinstance(value, int):
        return value
    if value in range(len(names)):
        return names[value]
    raise where.error(f"is {value}, none of its classes {', '.join(names)}: repair or drop the row")


def _number(value: object, *, from_text: bool) -> float | None:
    """None of what is no number; infinity where it is beyond float64."""
    known = isinstance(value, int | float | Decimal | (str if from_text else int))
    if isinstance(value, bool) or not known:
        return None
    if isinstance(value, str) and "_" in value:
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None
