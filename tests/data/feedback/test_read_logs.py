"""Feedback as logs hold it: verdicts in many words, other names of columns, conversations."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedback_rows import load, refused
from word_rows import write

from rto.cli.main import main
from rto.data.feedback.read import load_feedback
from rto.errors import UserError

CHAT = [
    {"role": "user", "content": "p"},
    {"role": "assistant", "content": "hm?"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]


def test_the_numbers_of_a_csv_file_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("prompt,response,reward\np,007,1\np,1.10,-2.5e0\n")
    (row,) = load_feedback(str(path), split="train")
    assert row.responses == (("007", 1.0), ("1.10", -2.5))
    for bad in ("", "x", "1_0", "nan", "1e39"):
        path.write_text(f"prompt,response,reward\np,a,1\np,b,{bad}\n")
        with pytest.raises(UserError, match=f"row 1: 'reward' has reward '{bad}'"):
            list(load_feedback(str(path), split="train"))


def test_a_conversation_and_its_rating(tmp_path: Path) -> None:
    assert load(tmp_path, [{"messages": CHAT, "rating": 4}]) == [(CHAT[:-1], (("a", 4.0),))]
    assert load(tmp_path, [{"messages": CHAT, "rating": "down"}]) == [(CHAT[:-1], (("a", 0.0),))]
    rated = [{"messages": CHAT[:2], "rating": 1}, {"messages": [*CHAT[:1], *CHAT[3:]], "rating": 2}]
    assert load(tmp_path, rated) == [(CHAT[:1], (("a", 2.0), ("hm?", 1.0)))]
    said = refused(tmp_path, [{"messages": CHAT[:-1], "rating": 4}])
    assert said.startswith("row 0: 'messages' message 2 is a turn of 'user': an answer is the")


def test_turns_before_the_answer_are_asked(tmp_path: Path) -> None:
    """The prompt alone does not tell which rows belong together."""
    pair = {"prompt": "p", "score_chosen": 2, "score_rejected": 1}
    worse = [*CHAT[:-1], {"role": "assistant", "content": "b"}]
    rows = [
        {**pair, "chosen": CHAT, "rejected": worse},
        {**pair, "chosen": [*CHAT[:1], *CHAT[3:]], "rejected": [*CHAT[:1], *worse[3:]]},
    ]
    both = (("a", 2.0), ("b", 1.0))
    assert load(tmp_path, rows) == [(CHAT[:-1], both), ("p", both)]
    mixed = [{**rows[0], "rejected": rows[1]["rejected"]}]
    assert refused(tmp_path, mixed).startswith(
        "row 0: 'rejected' and 'chosen' answer different prompts"
    )


@pytest.mark.parametrize(
    ("rows", "near"),
    [
        ({"question": "p", "answer": "a", "score": 1}, "flat: name columns with data.columns as in "
         "prompt=question,response=answer,reward=score"),
        ({"prompt": "p", "response": "a", "thumbs": "up"}, "flat: name columns with data.columns as"
         " in reward=thumbs"),
        ({"messages": CHAT, "label": True}, "messages: name columns with data.columns as in "
         "rating=label"),
        ({"Prompt": "p", "Response": "a", "Reward": 1}, "flat: name columns with data.columns "
         "as in prompt=Prompt,response=Response,reward=Reward"),
        ({"prompt": "p", " response": "a", " reward": 1}, "flat: name columns with data.columns as "
         "in response= response,reward= reward"),
        ({"prompt": "p", "chosn": "a", "rejected": "b"}, "preferences: name columns with "
         "data.columns as in chosen=chosn"),
        ({"prompt": "p", "response": "a"}, "flat, which lacks the column reward: name columns with "
         "data.columns, as in prompt=question,response=answer,reward=score"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_nearest_layout(
    tmp_path: Path, rows: dict[str, Any], near: str
) -> None:
    said = refused(tmp_path, [rows])
    assert (
        said == f"no known layout of feedback (columns: {', '.join(rows)}); the nearest is {near}"
    )


def test_the_mapping_that_a_refusal_names(tmp_path: Path) -> None:
    row = {"question": "p", "answer": "a", "score": 1}
    columns = refused(tmp_path, [row]).rpartition(" as in ")[2].split(",")
    assert load(tmp_path, [row], columns=columns) == [("p", (("a", 1.0),))]


def test_equal_responses_are_one_with_the_mean_reward(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response": text, "reward": reward}
        for text, reward in (("a", 1.0), ("b", 2.5), ("a", 3.0), ("a", 5.0))
    ]
    (row,) = load_feedback(write(tmp_path / "f.jsonl", rows), split="train")
    assert (row.responses, row.num_merged) == ((("a", 3.0), ("b", 2.5)), 2)


@pytest.mark.parametrize("reward", [1e39, -1e39, 10**400, 10**39])
def test_a_reward_beyond_float32_is_named(
    tmp_path: Path, reward: float, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "p", "response": r, "reward": x} for r, x in (("a", 3.4e38), ("b", reward))]
    assert refused(tmp_path, rows).startswith("row 1: 'reward' has reward ")
    assert main(["data", "check", write(tmp_path / "f.jsonl", rows)]) == 0
    said = capsys.readouterr().out
    assert "rewards that are NaN, or infinite in float32: 1" in said


def test_nothing_usable_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "p", "response": "a", "reward": "very"} for _ in range(8)]
    assert main(["data", "check", write(tmp_path / "f.jsonl", rows)]) == 2
    output = capsys.readouterr()
    assert "no usable response in 8 rows" in output.err
    assert output.err.count("\n") == 1


def test_decimals_are_numbers(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["p"], "response": ["a"], "reward": [Decimal("-1.25")]})
    pq.write_table(table, tmp_path / "f.parquet")
    (row,) = load_feedback(str(tmp_path / "f.parquet"), split="train")
    assert row.responses == (("a", -1.25),)
    table = pa.table({"prompt": ["p"], "response": ["a"], "label": [Decimal("1")]})
    pq.write_table(table, tmp_path / "f.parquet")
    (row,) = load_feedback(str(tmp_path / "f.parquet"), split="train")
    assert row.responses == (("a", 1.0),)
