"""Write and read a policy's answers in the formats of the benchmarks' own tools.

AlpacaEval 2 reads ``model_outputs.json``; Arena-Hard and MT-Bench read a JSON line per question in
their ``model_answer`` folder. This module reads all of these, and the lines of
`rto generate --out`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from rto.errors import UserError, foreign
from rto.evaluation.questions import Question
from rto.tracking.run_folder import write_atomic


@dataclass(frozen=True)
class Answers:
    """What one policy answered: ``turns[i]`` are its answers to the turns of question i.

    ``finished[i]`` is False where the length limit cut the last of them.
    """

    name: str
    turns: Sequence[tuple[str, ...]]
    finished: Sequence[bool]


Key = Literal["turn", "id"]
"""What identifies the question of a stored answer: its first turn, or its id."""


class Style(TypedDict):
    """Counts of an answer, by the names that Arena-Hard has for them."""

    token_len: int
    header_count: dict[str, int]
    list_count: dict[str, int]
    bold_count: dict[str, int]


@dataclass(frozen=True)
class _Given:
    """A stored answer to one question."""

    turns: tuple[str, ...]
    finished: bool = True


def write_answers(
    folder: Path, questions: Sequence[Question], answers: Answers, *, tstamp: float
) -> None:
    """``model_outputs.json``, ``arena_hard.jsonl``, ``mt_bench.jsonl`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(zip(questions, answers.turns, strict=True))
    alpaca = [alpaca_row(question, turns, answers.name) for question, turns in pairs]
    write_atomic(folder / "model_outputs.json", json.dumps(alpaca, indent=2) + "\n")
    for file, row in (("arena_hard.jsonl", arena_hard_row), ("mt_bench.jsonl", mt_bench_row)):
        lines = [json.dumps(row(q, turns, answers.name, tstamp)) + "\n" for q, turns in pairs]
        write_atomic(folder / file, "".join(lines))


def alpaca_row(question: Question, turns: Sequence[str], name: str) -> dict[str, str]:
    """The first turn: AlpacaEval's instructions have one."""
    return {
        "dataset": question.dataset,
        "instruction": question.turns[0],
        "output": turns[0],
        "generator": name,
    }


def arena_hard_row(
    question: Question, turns: Sequence[str], name: str, tstamp: float
) -> dict[str, object]:
    """A line of Arena-Hard 2.0's ``model_answer/NAME.jsonl``."""
    told: list[dict[str, object]] = []
    for asked, answer in zip(question.turns, turns, strict=True):
        told.append({"role": "user", "content": asked})
        told.append({"role": "assistant", "content": {"answer": answer}})
    return {
        "uid": str(question.id),
        "ans_id": _id(question, turns, name),
        "model": name,
        "messages": told,
        "tstamp": tstamp,
        "metadata": style(turns[-1]),
    }


def mt_bench_row(
    question: Question, turns: Sequence[str], name: str, tstamp: float
) -> dict[str, object]:
    """A line of MT-Bench's ``model_answer/NAME.jsonl``; its questions are numbered."""
    return {
        "question_id": question.id,
        "answer_id": _id(question, turns, name),
        "model_id": name,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": tstamp,
    }


def read_answers(path: str, questions: Sequence[Question], *, name: str) -> Answers:
    """The answers that a file holds to the questions.

    Raises:
        UserError: the file is none of the formats, or a question has no answer in it.
    """
    given: dict[tuple[Key, str], _Given] = {}
    for number, row in enumerate(_rows(path)):
        with foreign(
            f"{path}: row {number}: no answer in a known format",
            "give instruction and output, prompt and response, or lines of Arena-Hard or MT-Bench",
        ):
            key, answer = _read_row(row)
        if given.setdefault(key, answer) != answer:
            raise UserError(f"{path}: row {number}: a second answer to {key[1]!r:.60}: keep one")
    matches = [given.get(("turn", q.turns[0])) or given.get(("id", str(q.id))) for q in questions]
    kept = [_whole(path, *pair) for pair in zip(questions, matches, strict=True)]
    return Answers(name, [each.turns for each in kept], [each.finished for each in kept])


def _whole(path: str, question: Question, answer: _Given | None) -> _Given:
    """The answer, if there is one to each turn of the question.

    Raises:
        UserError: there is not.
    """
    if answer is None or len(answer.turns) != len(question.turns):
        got = "no answer" if answer is None else f"{len(answer.turns)} answers"
        raise UserError(
            f"{path}: {got} to question {question.id} of {len(question.turns)} turns "
            f"({question.turns[0]!r:.60}): give the answers to these prompts"
        )
    return answer


def style(answer: str) -> Style:
    """The counts that Arena-Hard's style control reads; tokens are counted as words here."""
    lines = answer.splitlines()
    heads = [len(line) - len(line.lstrip("#")) for line in lines if line.startswith("#")]
    bullets = [line.lstrip() for line in lines]
    return {
        "token_len": len(answer.split()),
        "header_count": {f"h{n}": heads.count(n) for n in range(1, 7)},
        "list_count": {
            "ordered": sum(line.split(".")[0].isdecimal() and "." in line for line in bullets),
            "unordered": sum(line.startswith(("- ", "* ", "+ ")) for line in bullets),
        },
        "bold_count": {"**": answer.count("**") // 2, "__": answer.count("__") // 2},
    }


def _id(question: Question, turns: Sequence[str], name: str) -> str:
    """The same answer of the same policy has the same id, whenever it is written."""
    return uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([name, question.id, *turns])).hex


def _rows(path: str) -> list[dict[str, Any]]:
    with foreign(f"{path}: neither a JSON list nor JSON lines"):
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            # Not splitlines: a text may hold other line breaks, which JSON does not escape.
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: holds no answers: expected objects, one per question")
    return rows


def _read_row(row: Mapping[str, Any]) -> tuple[tuple[Key, str], _Given]:
    """What the row answers, and its answers."""
    if "choices" in row:
        answered = [_text(turn) for turn in row["choices"][0]["turns"]]
        return ("id", str(row["question_id"])), _Given(tuple(answered))
    if "messages" in row:
        said = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        return ("id", str(row["uid"])), _Given(tuple(_text(content) for content in said))
    if "response" in row:
        finished = row.get("finished", True) is not False
        return ("turn", _text(row["prompt"])), _Given((_text(row["response"]),), finished)
    return ("turn", _text(row["instruction"])), _Given((_text(row["output"]),))


def _text(value: object) -> str:
    """A turn of any format: text, Arena-Hard's {content} or {answer}."""
    if isinstance(value, Mapping):
        value = value["answer"] if "answer" in value else value["content"]
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is not text")
    return value
