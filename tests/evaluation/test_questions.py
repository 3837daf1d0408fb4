"""Prompts of the benchmarks' layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import tiny_tokenizer

from rto.data.templates import Template
from rto.errors import UserError
from rto.evaluation.questions import Question, joined, load_questions, messages, rendered


def load(tmp_path: Path, *rows: dict[str, Any], **keys: str) -> list[Question]:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_questions(str(path), split="train", **keys)


def test_alpaca_eval(tmp_path: Path) -> None:
    row = {"instruction": "do", "output": "done", "generator": "g", "dataset": "helpful_base"}
    assert load(tmp_path, row) == [Question(0, ("do",), "done", "helpful_base")]


def test_mt_bench_has_two_turns(tmp_path: Path) -> None:
    row = {"question_id": 81, "category": "writing", "turns": ["write", "again"]}
    assert load(tmp_path, row) == [Question(81, ("write", "again"), category="writing")]


def test_arena_hard_old_and_new(tmp_path: Path) -> None:
    old = {"question_id": "ab", "category": "arena", "turns": [{"content": "why"}]}
    new = {"uid": "cd", "category": "hard_prompt", "subcategory": "coding", "prompt": "how"}
    assert load(tmp_path, old) == [Question("ab", ("why",), category="arena")]
    assert load(tmp_path, new) == [Question("cd", ("how",), category="hard_prompt")]


def test_rated_responses_give_the_best_as_reference(tmp_path: Path) -> None:
    responses = [{"text": "bad", "reward": 0}, {"text": "good", "reward": 2}]
    assert load(tmp_path, {"prompt": "p", "responses": responses}) == [Question(0, ("p",), "good")]


def test_columns_by_name_and_a_prompt_asked_twice(tmp_path: Path) -> None:
    rows = [{"q": "b", "a": "1"}, {"q": "a", "a": "2"}, {"q": "b", "a": "3"}]
    found = load(tmp_path, *rows, prompt_key="q", reference_key="a")
    assert found == [Question(0, ("b",), "1"), Question(1, ("a",), "2")]


def test_a_prompt_may_be_one_message_of_the_user(tmp_path: Path) -> None:
    user = {"role": "user", "content": "hi"}
    assert load(tmp_path, {"prompt": [user]})[0].turns == ("hi",)
    with pytest.raises(UserError, match="row 0: 'prompt' is a list of messages"):
        load(tmp_path, {"prompt": [user, {"role": "assistant", "content": "ho"}]})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, r"no prompts: .*columns: text.*--prompt_key"),
        ({"turns": []}, "row 0: 'turns' is not a list of the user's turns"),
        ({"turns": ["a", ""]}, "row 0: 'turns' is empty"),
        ({"instruction": "a", "output": " "}, "row 0: 'output' is empty"),
    ],
)
def test_rows_that_cannot_be_asked(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(tmp_path, row)


def test_the_conversation_so_far() -> None:
    question = Question(0, ("a", "b"))
    assert [m["role"] for m in messages(question, [])] == ["user"]
    assert [m["content"] for m in messages(question, ["A"])] == ["a", "A", "b"]


def test_turns_joined() -> None:
    assert joined(["x"]) == "x"
    assert joined(["x", "y"]) == "### Turn 1\n\nx\n\n### Turn 2\n\ny"


@pytest.mark.parametrize(
    "rows",
    [
        [{"turns": ["a"]}, {"turns": ["a"]}, {"turns": ["b"]}],
        [{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}],
        [{"prompt": p, "response": "r", "reward": 1.0} for p in ("a", "a", "b")],
    ],
    ids=["turns", "prompts", "rated"],
)
def test_an_error_about_a_question_names_its_row(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    """The second of two questions stands in the third row, for the first stands twice."""
    questions = load(tmp_path, *rows)
    assert [question.row for question in questions] == [0, 2]
    template = Template(tiny_tokenizer())
    with pytest.raises(UserError, match="^p: row 2: 'question 2' has several turns"):
        rendered(questions[1], ("an answer",), template, "p")
