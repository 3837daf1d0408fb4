"""Rated responses: three layouts, what becomes of short and long ones, and the constants."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from feedback_rows import FLAT, NESTED
from word_rows import write

from rto.data.feedback.read import Feedback, load_feedback
from rto.data.loaders.demonstrations import load_examples
from rto.data.loaders.pairs import load_pairs
from rto.data.loaders.prompts import load_prompts
from rto.data.loaders.rated import load_rated
from rto.data.templates import Template
from rto.errors import UserError
from rto.models.load import load_tokenizer
from rto.sections.data import Data

PAIRS = [
    {"prompt": "w0", "chosen": "w2", "rejected": "w1", "chosen_reward": 3, "rejected_reward": 0},
    {"prompt": "w3", "chosen": "w4", "rejected": "w5", "chosen_reward": -1, "rejected_reward": -2},
]
SCORED_PAIRS = [
    {
        "prompt": row["prompt"],
        **{
            side: [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row[side]},
            ]
            for side in ("chosen", "rejected")
        },
        "score_chosen": float(row["chosen_reward"]),
        "score_rejected": float(row["rejected_reward"]),
    }
    for row in PAIRS
]
"""As in UltraFeedback's binarised form: the last message of a conversation is the response."""
BEST_FIRST = [
    ("w0", (("w2", 3.0), ("w1", 0.0))),
    ("w3", (("w4", -1.0), ("w5", -2.0))),
]


def load(path: Path, rows: list[dict[str, Any]]) -> list[Feedback]:
    return list(load_feedback(write(path / "f.jsonl", rows), split="train"))


def message(path: Path, rows: list[dict[str, Any]]) -> str:
    with pytest.raises(UserError) as caught:
        load(path, rows)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def template(tiny_model_dir: Path) -> Template:
    return Template(load_tokenizer(str(tiny_model_dir)))


@pytest.mark.parametrize("rows", [NESTED, FLAT, PAIRS, SCORED_PAIRS])
def test_every_layout_gives_the_same_best_first(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    found = load(tmp_path, rows)
    assert [(row.prompt, row.responses) for row in found] == BEST_FIRST


@pytest.mark.parametrize("rows", [NESTED, FLAT, PAIRS])
def test_instruction_is_a_prompt_too(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    renamed = [{"instruction" if k == "prompt" else k: v for k, v in x.items()} for x in rows]
    found = load(tmp_path, renamed)
    assert [(row.prompt, row.responses) for row in found] == BEST_FIRST
    assert {row.where.field for row in found} == {"instruction"}


def test_a_prompt_is_named_by_its_first_row(tmp_path: Path) -> None:
    rows = [{**FLAT[1], "response": "w9"}, *FLAT]
    found = load(tmp_path, rows)
    assert [(x.prompt, x.where.row, x.where.field) for x in found] == [
        ("w3", 0, "prompt"),
        ("w0", 1, "prompt"),
    ]
    assert [len(x.responses) for x in found] == [3, 2]


def test_rows_of_one_prompt_join_in_every_layout(tmp_path: Path) -> None:
    again = [{"prompt": "w0", "responses": [{"text": "w9", "reward": 1.0}]}]
    first, second = load(tmp_path, [*NESTED, *again])
    assert first.responses == (("w2", 3.0), ("w9", 1.0), ("w1", 0.0))
    assert len(second.responses) == 2


def test_equal_rewards_keep_their_order(tmp_path: Path) -> None:
    rewards = [1.0, 2.0, 1.0, 2.0]
    rows = [{"prompt": "w0", "response": f"w{i}", "reward": r} for i, r in enumerate(rewards)]
    (row,) = load(tmp_path, rows)
    assert [text for text, _ in row.responses] == ["w1", "w3", "w0", "w2"]


def test_prompts_that_are_conversations_are_told_apart(tmp_path: Path) -> None:
    def turn(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    rows = [
        {"prompt": turn(text), "response": f"w{i}", "reward": 0.0}
        for i, text in enumerate(("w0", "w3", "w0"))
    ]
    found = load(tmp_path, rows)
    assert [(row.prompt, len(row.responses)) for row in found] == [(turn("w0"), 2), (turn("w3"), 1)]


def test_the_layout_is_not_known(tmp_path: Path) -> None:
    said = message(tmp_path, [{"prompt": "w0", "response": "w1", "score": 1.0}])
    assert "f.jsonl: no known layout of feedback (columns: prompt, response, score)" in said
    assert "no known layout" in message(tmp_path, [{"response": "w1", "reward": 1.0}])
    unrated = {name: PAIRS[0][name] for name in ("prompt", "chosen", "rejected", "chosen_reward")}
    assert "no known layout" in message(tmp_path, [unrated])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**FLAT[0], "reward": "1.0"}], "row 0: 'reward' has reward '1.0': must be a finite"),
        ([FLAT[0], {**FLAT[1], "reward": True}], "row 1: 'reward' has reward True"),
        ([FLAT[0], {**FLAT[1], "reward": None}], "row 1: 'reward' has reward None"),
        ([FLAT[0], {**FLAT[1], "response": " "}], "row 1: 'response' is empty"),
        ([PAIRS[0], {**PAIRS[1], "rejected": None}], "row 1: 'rejected' is missing"),
        ([{**PAIRS[0], "chosen": ["w2"]}], "row 0: 'chosen' message 0 is not a {role, content}"),
        ([{**PAIRS[0], "chosen": [{"role": "x"}]}], "row 0: 'chosen' message 0 is not a {role"),
        ([PAIRS[0], {**PAIRS[1], "rejected_reward": None}], "row 1: 'rejected_reward' has reward"),
        ([NESTED[0], {"prompt": "w3", "responses": []}], "row 1: 'responses' is empty"),
        ([{"prompt": "w0", "responses": ["w1"]}], "row 0: 'responses[0]' is not a {text, reward}"),
        (
            [{"prompt": "w0", "responses": [{"text": "w1"}]}],
            "row 0: 'responses[0]' is not a {text, reward} pair",
        ),
        (
            [NESTED[0], {"prompt": "w3", "responses": [{"text": "", "reward": 1.0}]}],
            "row 1: 'responses[0].text' is empty",
        ),
        (
            [
                {
                    "prompt": "w0",
                    "responses": [{"text": "w1", "reward": 1.0}, {"text": "w2", "reward": None}],
                }
            ],
            "row 0: 'responses[1]' has reward None: must be a finite number",
        ),
    ],
)
def test_a_row_that_cannot_be_read(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    assert f"f.jsonl: {said}" in message(tmp_path, rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "f.parquet"
    Dataset.from_list([*FLAT, {**FLAT[0], "reward": bad}]).to_parquet(path)
    with pytest.raises(UserError, match=rf"row 4: 'reward' has reward {bad}: must be a finite"):
        list(load_feedback(str(path), split="train"))


def word(i: int) -> int:
    return i + 6


def test_pairs_need_no_rewards(template: Template, tmp_path: Path) -> None:
    """Rows of one prompt stay apart: nothing says how their responses compare."""
    rows = [
        {"prompt": "w0", "chosen": chosen, "rejected": rejected}
        for chosen, rejected in (("w1", "w2"), ("w3", "w4"))
    ]
    data = Data(feedback=write(tmp_path / "f.jsonl", rows), max_len=8)
    pairs = load_pairs(data, template, seed=0).pairs
    ids = [[side.response_ids[0] for side in pair] for pair in pairs]
    assert ids == [[word(1), word(2)], [word(3), word(4)]]
    with pytest.raises(UserError, match="layout preferences has no rewards"):
        load_rated(data, template, min_responses=1)
    prompts = load_prompts(data, template.tokenizer, max_prompt_len=8, seed=0)
    assert [prompt.text for prompt in prompts] == ["w0"]


def test_a_label_is_the_text_of_its_file(template: Template, tmp_path: Path) -> None:
    rows = [{"q": "w0", "a": a} for a in ("007", "1969-07-20", 2**63, [1, "x"], None)]
    source = write(tmp_path / "f.jsonl", rows)
    data = Data(prompt_dataset=[source], input_key="q", label_key="a")
    prompts = load_prompts(data, template.tokenizer, max_prompt_len=8, seed=0)
    assert [x.label for x in prompts] == ["007", "1969-07-20", str(2**63), '[1, "x"]', None]


def test_prompts_that_two_sources_share_are_one(tmp_path: Path) -> None:
    """Of any layout; equal rewards keep the order of the sources and their rows."""
    first = [
        {"prompt": "p", "response": text, "reward": reward}
        for text, reward in (("a", 0.0), ("b", 1.0))
    ]
    other = {"prompt": "q", "response": "c", "reward": 2.0}
    second = [
        {"prompt": "r", "responses": [{"text": "f", "reward": 0.0}]},
        {"prompt": "p", "responses": [{"text": t, "reward": r} for t, r in (("d", 0.5), ("e", 1))]},
        {"prompt": "q", "responses": [{"text": "g", "reward": 2.0}]},
    ]
    rows = [first[0], other, first[1]]
    sources = [write(tmp_path / "1.jsonl", rows), write(tmp_path / "2.jsonl", second)]
    found = list(load_feedback(*sources, split="train"))
    assert [(row.prompt, row.responses) for row in found] == [
        ("p", (("b", 1.0), ("e", 1.0), ("d", 0.5), ("a", 0.0))),
        ("q", (("c", 2.0), ("g", 2.0))),
        ("r", (("f", 0.0),)),
    ]
    assert [(row.where.source, row.where.row) for row in found] == [
        (sources[0], 0),
        (sources[0], 1),
        (sources[1], 0),
    ]


@pytest.mark.parametrize(
    "load_with",
    [
        lambda data, template: load_rated(data, template, min_responses=1),
        lambda data, template: load_pairs(data, template, seed=0),
        lambda data, template: load_examples(data, template, seed=0),
        lambda data, template: load_prompts(data, template.tokenizer, max_prompt_len=8, seed=0),
    ],
)
def test_every_reader_takes_the_layout(tmp_path: Path, template: Template, load_with: Any) -> None:
    source = write(tmp_path / "f.jsonl", FLAT)
    with pytest.raises(UserError, match="layout nemo needs the column"):
        load_with(Data(feedback=source, max_len=8, layout="nemo"), template)
