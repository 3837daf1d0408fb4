"""The toy task: its words, and what a prompt asks for."""

from __future__ import annotations

from random import Random

import pytest

from rto.errors import UserError
from rto.quickstart.toy import VOCABULARY, Request, all_requests, parse_prompt

REQUEST = Request(32, "happy", ("cat", "boat"), "garden")


def test_a_prompt_is_the_request_that_it_was_written_from() -> None:
    assert REQUEST.prompt == "write 32 happy words about a cat and a boat in the garden"
    for request in Random(0).sample(all_requests(), 200):
        assert parse_prompt(request.prompt) == request
    assert parse_prompt(f" {REQUEST.prompt}\n") == REQUEST


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "write many happy words about a cat and a boat in the garden",
        "write 32 dull words about a cat and a boat in the garden",
        "write 32 happy words about a cat in the garden",
        f"{REQUEST.prompt} now",
    ],
)
def test_another_text_is_refused_with_the_pattern(prompt: str) -> None:
    with pytest.raises(UserError, match="not a prompt of the toy task") as caught:
        parse_prompt(prompt)
    assert "write N happy|sad|calm|wild words about a NOUN and a NOUN" in str(caught.value)


def test_no_request_stands_twice_and_none_asks_for_one_noun_twice() -> None:
    requests = all_requests()
    assert len(set(requests)) == len(requests)
    assert all(first != second for first, second in (request.nouns for request in requests))


def test_every_word_of_a_prompt_is_in_the_vocabulary() -> None:
    words = {word for request in all_requests() for word in request.prompt.split()}
    assert words <= set(VOCABULARY)
    assert len(set(VOCABULARY)) == len(VOCABULARY)
