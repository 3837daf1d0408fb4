"""Read the prompts of an evaluation and their references, in the formats of several benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from datasets import Dataset

from rto.data.feedback.layouts import told_layout
from rto.data.feedback.read import load_feedback
from rto.data.sources import load_rows, numbered_rows, require_text
from rto.data.templates import Message, Template, Where
from rto.errors import UserError

ASKED = ("instruction", "prompt", "question", "input")
"""Columns that hold a prompt of one turn, in the order in which they are looked for."""
GIVEN = ("reference", "output")
"""Columns that hold a reference response."""


@dataclass(frozen=True)
class Question:
    """What a policy is asked: ``turns`` of the user, one after another.

    ``id`` is unique in its source; ``reference`` answers the first turn; ``dataset`` and
    ``category`` are the source's own words. ``row`` is where it stands in the source.
    """

    id: str | int
    turns: tuple[str, ...]
    reference: str | None = None
    dataset: str = ""
    category: str = ""
    row: int = field(default=0, compare=False)

    def where(self, source: str) -> Where:
        """For messages."""
        return Where(source, self.row, f"question {self.id}")


def load_questions(
    source: str, *, split: str, prompt_key: str | None = None, reference_key: str | None = None
) -> list[Question]:
    """The distinct prompts of a file, a saved dataset or a hub id, in the order of their first row.

    The columns tell the layout: ``turns`` is MT-Bench or Arena-Hard, ``instruction`` AlpacaEval, a
    layout of rated responses gives the best-rated response as the reference, none where its
    verdict is the bad one.

    Raises:
        UserError: names the row and the field that cannot be read.
    """
    rows = load_rows(source, split=split)
    if prompt_key is None and "turns" in rows.column_names:
        questions = list(_turns(rows, source))
    elif prompt_key is None and (layout := told_layout(rows)) is not None and layout.rated:
        questions = [
            Question(
                row.where.row,
                (_one_turn(row.prompt, row.where),),
                None if row.disliked else row.responses[0][0],
                row=row.where.row,
            )
            for row in load_feedback(source, split=split)
        ]
    else:
        questions = list(_single(rows, source, prompt_key, reference_key))
    distinct: dict[tuple[str, ...], Question] = {}
    for question in questions:
        distinct.setdefault(question.turns, question)
    return list(distinct.values())


def messages(question: Question, answers: Sequence[str]) -> list[Message]:
    """The conversation up to the user's turn that follows the given answers."""
    told: list[Message] = []
    for turn, answer in zip(question.turns, answers, strict=False):
        told += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*told, {"role": "user", "content": question.turns[len(answers)]}]


def rendered(question: Question, answers: Sequence[str], template: Template, source: str) -> str:
    """The conversation as a model reads it.

    Raises:
        UserError: a second turn for a tokenizer without a chat template.
    """
    where = question.where(source)
    if template.apply_chat_template:
        return template.prompt(messages(question, answers), where)
    if answers:
        raise where.error("has several turns, and the tokenizer has no chat template to join them")
    return template.prompt(question.turns[0], where)


def joined(turns: Sequence[str]) -> str:
    """One text of several turns; a single turn as it is."""
    if len(turns) == 1:
        return turns[0]
    return "\n\n".join(f"### Turn {n}\n\n{turn}" for n, turn in enumerate(turns, start=1))


def _turns(rows: Dataset, source: str) -> Iterator[Question]:
    keep = [
        name for name in ("turns", "question_id", "uid", "category") if name in rows.column_names
    ]
    for number, row in numbered_rows(rows, keep, source=source):
        where = Where(source, number, "turns")
        asked = row["turns"]
        if not isinstance(asked, list) or not asked:
            raise where.error("is not a list of the user's turns")
        turns = tuple(
            require_text(
                turn.get("content") if isinstance(turn, Mapping) else turn,
                source=source,
                row=number,
                field="turns",
            )
            for turn in asked
        )
        category = str(row.get("category") or "")
        yield Question(_id(row, number), turns, category=category, row=number)


def _single(
    rows: Dataset, source: str, prompt_key: str | None, reference_key: str | None
) -> Iterator[Question]:
    columns = rows.column_names
    asked = prompt_key or next((name for name in ASKED if name in columns), None)
    if asked is None:
        raise UserError(
            f"{source}: no prompts: no column 'turns', {', '.join(map(repr, ASKED))} (columns: "
            f"{', '.join(columns)}); name one with --prompt_key"
        )
    given = reference_key or next((name for name in GIVEN if name in columns), None)
    others = [n for n in ("dataset", "category", "uid", "question_id") if n in columns]
    keep = [asked, *([] if given is None else [given]), *others]
    for number, row in numbered_rows(rows, list(dict.fromkeys(keep)), source=source):
        reference = None
        if given is not None:
            reference = require_text(row[given], source=source, row=number, field=given)
        yield Question(
            _id(row, number),
            (_one_turn(row[asked], Where(source, number, asked)),),
            reference,
            dataset=str(row.get("dataset") or ""),
            category=str(row.get("category") or ""),
            row=number,
        )


def _one_turn(value: object, where: Where) -> str:
    """A prompt that is text, or a list of one message of the user."""
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, Mapping)]
        if len(value) != 1 or len(turns) != 1 or turns[0].get("role") != "user":
            raise where.error("is a list of messages: only one message of the user can be asked")
        value = turns[0].get("content")
    return require_text(value, source=where.source, row=where.row, field=where.field)


def _id(row: Mapping[str, object], number: int) -> str | int:
    for name in ("uid", "question_id"):
        value = row.get(name)
        if value is not None:
            return value if isinstance(value, int) else str(value)
    return number
