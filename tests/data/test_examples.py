"""Stored rows as token ids: where a response is cut, and how groups become a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from word_rows import pairs

from rto.data.examples import Example, Limit, collate_groups, read_responses
from rto.data.templates import Template, Where
from rto.errors import UserError
from rto.models.load import load_tokenizer
from rto.sections.data import Data


def test_a_cut_response_gets_no_eos() -> None:
    limit = Limit(max_len=4, on_long_prompt="filter")
    assert limit.example((7,), (8, 9), eos=2) == Example((7,), (8, 9, 2), finished=True)
    assert limit.example((7,), (8, 9, 10), eos=2) == Example((7,), (8, 9, 10), finished=False)
    assert limit.example((7,), (8, 9, 10, 11), eos=2) == Example((7,), (8, 9, 10), finished=False)


def test_prompt_and_response_apart() -> None:
    """5 tokens of which the prompt may have 2. A decoder's response takes what its prompt leaves,
    4 beside 1; a decoder of its own takes 5 - 2 = 3 whatever the prompt has."""
    data = Data(max_len=5, max_prompt_len=2)
    together, apart = (Limit.of(data, encoder_decoder=x) for x in (False, True))
    answer = (8, 9, 10, 11, 12)
    assert len(together.example((7,), answer, eos=2).response_ids) == 4
    assert len(together.example((7, 7), answer, eos=2).response_ids) == 3
    for prompt in ((7,), (7, 7)):
        assert apart.example(prompt, answer, eos=2).response_ids == (8, 9, 10)
        assert apart.example(prompt, answer[:2], eos=2).response_ids == (8, 9, 2)
    assert apart.admits((7, 7), Where("f", 0, "q"))
    assert not apart.admits((7, 7, 7), Where("f", 0, "q"))
    strict = replace(apart, on_long_prompt="error")
    with pytest.raises(UserError, match="has 3 tokens, data.max_prompt_len is 2: raise it"):
        strict.admits((7, 7, 7), Where("f", 0, "q"))


def test_a_prompt_that_is_cut_leaves_room(tiny_model_dir: Path) -> None:
    template = Template(load_tokenizer(str(tiny_model_dir)))
    where = Where("f", 0, "q")
    with pytest.raises(UserError, match="max_prompt_len is unset: set it to the tokens"):
        Limit.of(Data(on_long_prompt="truncate"), encoder_decoder=False)
    data = Data(max_len=5, max_prompt_len=2, on_long_prompt="truncate")
    limit = Limit.of(data, encoder_decoder=False)
    for given, kept, cut in (("w1 w2", "w1 w2", False), ("w1 w2 w3 w4 w5", "w1 w2", True)):
        (example,) = read_responses(given, ["w7 w8 w9"], template, limit, where)
        assert example.prompt_ids == template.prompt_ids(kept)
        assert example.response_ids == template.response_ids("w7 w8 w9")
        assert (example.finished, example.prompt_cut) == (False, cut)


def test_pairs_are_adjacent_rows_of_one_group() -> None:
    tokens = collate_groups(pairs(2), pad_token_id=0)
    assert tokens.group.tolist() == [0, 0, 1, 1]
    assert tokens.response_ids.tolist() == [[20, 2], [21, 0], [22, 2], [23, 0]]
    assert tokens.finished.tolist() == [True, False, True, False]
    assert tokens.response_mask.sum(-1).tolist() == [2, 1, 2, 1]
