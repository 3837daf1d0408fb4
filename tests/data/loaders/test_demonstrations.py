"""Demonstrations from files: answers to prompts, and whole texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from word_rows import word, write

from rto.data.examples import Example
from rto.data.loaders.demonstrations import load_examples, load_texts
from rto.data.templates import Template
from rto.errors import UserError
from rto.sections.data import Data


def talk(*texts: str, last: str = "assistant") -> list[dict[str, str]]:
    roles = [*("user", "assistant") * len(texts)][: len(texts) - 1]
    told = zip([*roles, last], texts, strict=True)
    return [{"role": role, "content": text} for role, text in told]


def test_demonstrations_may_be_answers_of_one_turn(chat: Template, tmp_path: Path) -> None:
    """A prompt column of messages beside a column of the answer's message."""
    rows = [{"q": talk("w1", last="user"), "a": talk("w2")}]
    data = Data(dataset=[write(tmp_path / "x.jsonl", rows)], input_key="q", output_key="a")
    ((example,),) = load_examples(data, chat, seed=0).examples
    assert example == Example((4, word(1), 5), (word(2), 2), finished=True)


def test_a_whole_text_keeps_its_earlier_turns(template: Template, tmp_path: Path) -> None:
    """Of several ends in a text, the last one is the end."""
    rows = [{"input": "w1 w2 </s> w3 </s>\n"}, {"input": "<s> w4 </s> </s>"}]
    data = Data(dataset=[write(tmp_path / "x.jsonl", rows)])
    first, second = load_examples(data, template, seed=0).examples
    assert first == (Example((1,), (word(1), word(2), 2, word(3), 2), finished=True),)
    assert second == (Example((1,), (word(4), 2), finished=True),)


def test_stored_rows_keep_the_prompt_limit(template: Template, tmp_path: Path) -> None:
    rows = [{"q": "w1 w1", "a": "w2"}, {"q": "w1", "a": "w2"}]
    path = write(tmp_path / "x.jsonl", rows)
    data = Data(dataset=[path], input_key="q", output_key="a", max_len=8, max_prompt_len=1)
    found = load_examples(data, template, seed=0)
    assert (len(found.examples), found.num_too_long) == (1, 1)


def test_prompts_without_room_are_counted_or_refused(template: Template, tmp_path: Path) -> None:
    rows = [{"q": "w1 w1", "a": "w2"}, {"q": "w1", "a": "w2"}]
    path = write(tmp_path / "x.jsonl", rows)
    data = Data(dataset=[path], input_key="q", output_key="a", max_len=2)
    found = load_examples(data, template, seed=0)
    assert (len(found.examples), found.num_too_long) == (1, 1)
    strict = Data(dataset=[path], input_key="q", output_key="a", max_len=2, on_long_prompt="error")
    with pytest.raises(UserError, match="row 0: 'q' has 2 tokens, which leaves no room"):
        load_examples(strict, template, seed=0)


def test_whole_texts_start_from_bos_or_their_first_token(
    template: Template, tmp_path: Path
) -> None:
    data = Data(dataset=[write(tmp_path / "x.jsonl", [{"input": "w1 w2"}])])
    expected = Example((1,), (word(1), word(2), 2), finished=True)
    assert list(load_examples(data, template, seed=0).examples) == [(expected,)]
    assert list(load_texts(data.dataset[0], data, template)) == [(expected,)]
    template.tokenizer.bos_token = None
    assert list(load_examples(data, template, seed=0).examples) == [
        (Example((word(1),), (word(2), 2), finished=True),)
    ]
