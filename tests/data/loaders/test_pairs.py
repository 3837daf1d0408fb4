"""Pairs from files: of feedback, with a prompt column, as conversations and as whole texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from word_rows import word, write

from rto.data.examples import Example
from rto.data.loaders.demonstrations import load_examples
from rto.data.loaders.pairs import load_pairs
from rto.data.loaders.prompts import load_prompts
from rto.data.templates import Template
from rto.errors import UserError
from rto.models.load import load_tokenizer
from rto.sections.data import Data

FEEDBACK = [
    {
        "prompt": "w0",
        "responses": [
            {"text": "w1", "reward": 0},
            {"text": "w2", "reward": 2.5},
            {"text": "w3", "reward": 2.5},
            {"text": "w4", "reward": -1},
        ],
    },
    {"prompt": "w5", "responses": [{"text": "w6", "reward": 1.0}]},
]


def test_feedback_as_prompts_pairs_and_demonstrations(template: Template, tmp_path: Path) -> None:
    data = Data(feedback=write(tmp_path / "f.jsonl", FEEDBACK))
    prompts = load_prompts(data, template.tokenizer, max_prompt_len=4, seed=0)
    assert [p.text for p in prompts] == ["w0", "w5"]
    pairs = load_pairs(data, template, seed=0).pairs
    # best is w2; w3 ties with it; the lone response of row 1 has no counterpart
    got = [(p.chosen.response_ids[0], p.rejected.response_ids[0]) for p in pairs]
    assert got == [(word(2), word(1)), (word(2), word(4))]
    examples = load_examples(data, template, seed=0).examples
    assert [e.response_ids for (e,) in examples] == [(word(2), 2), (word(6), 2)]


@pytest.mark.parametrize("bad", ["NaN", "null", '"1.0"', "true", "1e999"])
def test_a_reward_that_is_no_number(template: Template, tmp_path: Path, bad: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "w1", "responses": [{"text": "w2", "reward": %s}]}\n' % bad)  # noqa: UP031
    with pytest.raises(UserError, match=r"f.jsonl"):
        load_pairs(Data(feedback=str(path)), template, seed=0)


def test_pairs_with_a_prompt_column(template: Template, tmp_path: Path) -> None:
    rows = [{"q": "w1", "chosen": "w2 w3", "rejected": "w4"}]
    data = Data(dataset=[write(tmp_path / "x.jsonl", rows)], prompt_key="q")
    (pair,) = load_pairs(data, template, seed=0).pairs
    assert pair.chosen == Example((word(1),), (word(2), word(3), 2), finished=True)
    assert pair.rejected == Example((word(1),), (word(4), 2), finished=True)


def test_pairs_of_message_lists(tiny_model_dir: Path, tmp_path: Path) -> None:
    chat = Template(load_tokenizer(str(tiny_model_dir)), apply_chat_template=True)
    turns = [{"role": "user", "content": "w1"}]
    a, b = ({"role": "assistant", "content": text} for text in ("w2", "w3"))
    path = write(tmp_path / "x.jsonl", [{"chosen": [*turns, a], "rejected": [*turns, b]}])
    (pair,) = load_pairs(Data(dataset=[path], apply_chat_template=True), chat, seed=0).pairs
    assert pair.chosen == Example((4, word(1), 5), (word(2), 2), finished=True)
    assert pair.rejected.response_ids == (word(3), 2)
    other = write(tmp_path / "y.jsonl", [{"chosen": [*turns, a], "rejected": [b, b]}])
    with pytest.raises(UserError, match="row 0: 'chosen' .*answer different prompts"):
        load_pairs(Data(dataset=[other]), chat, seed=0)


def test_pairs_of_whole_texts_split_at_the_first_difference(
    template: Template, tmp_path: Path
) -> None:
    rows = [{"chosen": "w1 w2 w3", "rejected": "w1 w2 w4 w5"}]
    data = Data(dataset=[write(tmp_path / "x.jsonl", rows)])
    (pair,) = load_pairs(data, template, seed=0).pairs
    assert pair.chosen == Example((word(1), word(2)), (word(3), 2), finished=True)
    assert pair.rejected == Example((word(1), word(2)), (word(4), word(5), 2), finished=True)
    same = write(tmp_path / "y.jsonl", [{"chosen": "w1", "rejected": "w1"}])
    with pytest.raises(UserError, match="y.jsonl: no pair .* 1 have equal chosen and rejected"):
        load_pairs(Data(dataset=[same]), template, seed=0)


def talk(*texts: str, last: str = "assistant") -> list[dict[str, str]]:
    roles = [*("user", "assistant") * len(texts)][: len(texts) - 1]
    told = zip([*roles, last], texts, strict=True)
    return [{"role": role, "content": text} for role, text in told]


def test_turns_between_prompt_and_answer_are_part_of_the_prompt(
    chat: Template, tmp_path: Path
) -> None:
    sides = {"chosen": talk("w1", "w2", "w3", "w4"), "rejected": talk("w1", "w2", "w3", "w5")}
    path = write(tmp_path / "x.jsonl", [{"q": "w1", **sides}])
    (pair,) = load_pairs(Data(dataset=[path], prompt_key="q"), chat, seed=0).pairs
    # <user> w1 <assistant> w2 </s> <user> w3 <assistant>
    prompt = (4, word(1), 5, word(2), 2, 4, word(3), 5)
    assert pair.chosen == Example(prompt, (word(4), 2), finished=True)
    assert pair.rejected == Example(prompt, (word(5), 2), finished=True)
    sides["rejected"] = talk("w1", "w9", "w3", "w5")
    other = write(tmp_path / "y.jsonl", [{"q": "w1", **sides}])
    with pytest.raises(UserError, match="y.jsonl: row 0: 'chosen' .*answer different prompts"):
        load_pairs(Data(dataset=[other], prompt_key="q"), chat, seed=0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (talk("w2", "w3", last="user"), "message 1 is a turn of 'user'"),
        (talk(""), "message 0: content is empty"),
        ([], "is not a list of messages"),
        (None, "is missing"),
        (" ", "is empty"),
    ],
)
def test_an_answer_that_is_none_is_refused_alike(
    chat: Template, tmp_path: Path, answer: object, said: str
) -> None:
    path = write(tmp_path / "x.jsonl", [{"q": "w1", "chosen": "w2", "rejected": answer}])
    match = f"x.jsonl: row 0: 'rejected' {said}"
    with pytest.raises(UserError, match=match):
        load_pairs(Data(dataset=[path], prompt_key="q"), chat, seed=0)
    data = Data(dataset=[path], input_key="q", output_key="rejected")
    with pytest.raises(UserError, match=match):
        load_examples(data, chat, seed=0)


@pytest.mark.parametrize("keyed", [True, False])
def test_equal_sides_are_dropped_and_counted(
    template: Template, tmp_path: Path, keyed: bool
) -> None:
    """With a prompt or as whole texts; cut to the same tokens, too."""
    sides = [("w2", "w2"), ("w2", "w3"), ("w4 w4 w4 w5", "w4 w4 w4 w6"), ("w2 </s>", "w2")]
    begin = "" if keyed else "w1 "
    rows = [{"q": "w1", "chosen": begin + a, "rejected": begin + b} for a, b in sides]
    path = write(tmp_path / "x.jsonl", rows)
    key = "q" if keyed else None
    found = load_pairs(Data(dataset=[path], prompt_key=key, max_len=4), template, seed=0)
    assert (len(found.pairs), found.num_equal) == (1, 3 if keyed else 2)
    assert found.num_too_long == (0 if keyed else 1)
    assert found.pairs[0].rejected.response_ids == (word(3), 2)


def pairs(count: int) -> list[tuple[Example, Example]]:
    return [
        (Example((1, i), (2 * i, 2), finished=True), Example((1, i), (2 * i + 1,), finished=False))
        for i in range(10, 10 + count)
    ]
