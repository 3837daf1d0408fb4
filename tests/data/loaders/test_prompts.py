"""Prompts from files: what is kept of a row, and which are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from word_rows import word, write

from rto.data.loaders.demonstrations import load_examples
from rto.data.loaders.pairs import load_pairs
from rto.data.loaders.prompts import load_prompts
from rto.data.templates import Template
from rto.errors import UserError
from rto.sections.data import Data


def test_prompts_keep_identity_label_and_source(template: Template, tmp_path: Path) -> None:
    rows = [{"input": f"w{i}", "answer": i} for i in range(3)]
    data = Data(prompt_dataset=[write(tmp_path / "p.jsonl", rows)], label_key="answer")
    prompts = load_prompts(data, template.tokenizer, max_prompt_len=4, seed=0)
    assert [p.id for p in prompts] == [0, 1, 2]
    assert [p.token_ids for p in prompts] == [(word(0),), (word(1),), (word(2),)]
    assert [p.label for p in prompts] == ["0", "1", "2"]
    assert prompts[0].source == data.prompt_dataset[0]


def test_long_prompts_are_counted_or_refused(template: Template, tmp_path: Path) -> None:
    rows = [{"input": "w1 w2 w3"}, {"input": "w4 w5"}]
    path = write(tmp_path / "p.jsonl", rows)
    prompts = load_prompts(
        Data(prompt_dataset=[path]), template.tokenizer, max_prompt_len=2, seed=0
    )
    assert ([p.id for p in prompts], prompts.num_too_long) == ([1], 1)
    strict = Data(prompt_dataset=[path], on_long_prompt="error")
    with pytest.raises(UserError, match=r"1 prompts are longer than 2 tokens \(prompt 0 of .* 3\)"):
        load_prompts(strict, template.tokenizer, max_prompt_len=2, seed=0)
    with pytest.raises(UserError, match="all 2 prompts are longer than 1"):
        load_prompts(Data(prompt_dataset=[path]), template.tokenizer, max_prompt_len=1, seed=0)


@pytest.mark.parametrize("bad", [None, "", float("nan")])
def test_a_prompt_without_text(template: Template, tmp_path: Path, bad: object) -> None:
    path = write(tmp_path / "p.jsonl", [{"input": "w1"}, {"input": bad}])
    with pytest.raises(UserError, match=r"p.jsonl: row 1: 'input' is (missing|empty)"):
        load_prompts(Data(prompt_dataset=[path]), template.tokenizer, max_prompt_len=2, seed=0)


def test_a_prompt_that_becomes_no_token(template: Template, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"input": "w1"}, {"input": "<s>"}])
    with pytest.raises(UserError, match="p.jsonl: row 1: 'input' becomes no token"):
        load_prompts(Data(prompt_dataset=[path]), template.tokenizer, max_prompt_len=2, seed=0)
    for load in (load_examples, load_pairs):
        keys: dict[str, Any] = {"input_key": "input", "output_key": "input", "prompt_key": "input"}
        data = Data(dataset=[path], chosen_key="input", rejected_key="input", **keys)
        with pytest.raises(UserError, match="p.jsonl: row 1: 'input' becomes no token"):
            load(data, template, seed=0)


def test_no_dataset(template: Template) -> None:
    with pytest.raises(UserError, match="no prompts"):
        load_prompts(Data(), template.tokenizer, max_prompt_len=2, seed=0)
    with pytest.raises(UserError, match="no pairs"):
        load_pairs(Data(), template, seed=0)
    with pytest.raises(UserError, match="no rows"):
        load_examples(Data(), template, seed=0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_prompts_are_cut_and_counted(template: Template, tmp_path: Path, side: str) -> None:
    """Against what the tokenizer keeps when it truncates; a prompt that fits is left alone."""
    rows = [{"input": "w1 w2 w3"}, {"input": "w4 w5"}, {"input": "w6 w7 w8 w9"}]
    data = Data(prompt_dataset=[write(tmp_path / "p.jsonl", rows)], on_long_prompt="truncate")
    template.tokenizer.truncation_side = side
    prompts = load_prompts(data, template.tokenizer, max_prompt_len=2, seed=0)
    kept = [
        template.tokenizer(row["input"], truncation=True, max_length=2)["input_ids"] for row in rows
    ]
    assert [list(p.token_ids) for p in prompts] == kept
    texts = ["w1 w2", "w4 w5", "w6 w7"] if side == "right" else ["w2 w3", "w4 w5", "w8 w9"]
    assert [p.text for p in prompts] == texts
    assert (len(prompts), prompts.num_cut, prompts.num_too_long) == (3, 2, 0)
    some = load_prompts(replace(data, max_samples=2), template.tokenizer, max_prompt_len=2, seed=0)
    assert (len(some), some.num_cut) == (2, 1)


def test_prompts_of_feedback_are_cut(template: Template, tmp_path: Path) -> None:
    rows = [{"prompt": "w1 w2 w3", "response": "w4", "reward": 1.0}]
    data = Data(feedback=write(tmp_path / "f.jsonl", rows), on_long_prompt="truncate")
    prompts = load_prompts(data, template.tokenizer, max_prompt_len=1, seed=0)
    assert (prompts[0].token_ids, prompts[0].text, prompts.num_cut) == ((word(1),), "w1", 1)
