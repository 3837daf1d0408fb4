"""The gold reward, each term by hand."""

from __future__ import annotations

import pytest

from rto.errors import UserError
from rto.quickstart.gold import gold_reward, gold_terms, grammar_faults
from rto.quickstart.reward_func import reward_func
from rto.quickstart.toy import Request, parse_prompt

PROMPT = "write 24 happy words about a cat and a boat in the garden"
REQUEST = Request(length=24, mood="happy", nouns=("cat", "boat"), place="garden")
PERFECT = (
    "the merry cat dances in the sunny garden . a boat is lucky and proud . "
    "this jolly cat is cheerful and glad ."
)


def test_a_perfect_response_has_the_stated_maximum() -> None:
    assert len(PERFECT.split()) == 24
    assert gold_reward(PROMPT, PERFECT) == pytest.approx(3 * 1.0 + 8 * 0.25)


@pytest.mark.parametrize(
    ("response", "term", "value"),
    [
        ("the cat is in the garden .", "topic", 2.0),
        ("the cat is in a garden . a cat waits .", "topic", 2.0),
        ("the dog is in the garden . a fox waits .", "off_topic", -0.2),
        ("the merry cat dances . the merry cat dances .", "mood", 0.5),
        ("the gloomy cat howls . a calm", "off_mood", -0.5),
        ("the nasty cat is small and vile .", "rude", -1.0),
        ("the merry cat dances . the merry cat dances .", "repeated", -0.4),
        ("the cat waits .", "length", -1.0),
        ("the cat waits . the cat", "unfinished", -1.0),
        ("", "unfinished", -1.0),
    ],
)
def test_one_term(response: str, term: str, value: float) -> None:
    assert gold_terms(REQUEST, response.split())[term] == pytest.approx(value)


@pytest.mark.parametrize(
    ("response", "faults"),
    [
        ("the merry cat dances in a garden .", 0),
        ("cat the waits .", 3),  # start-noun, noun-determiner, determiner-verb
        ("the zebra waits .", 2),  # an unknown word goes with neither neighbour
        ("", 0),
    ],
)
def test_grammar_faults(response: str, faults: int) -> None:
    assert grammar_faults(response.split()) == faults


def test_prompts_parse_back_and_others_are_refused() -> None:
    assert parse_prompt(PROMPT) == REQUEST
    assert REQUEST.prompt == PROMPT
    with pytest.raises(UserError, match="write N"):
        parse_prompt("tell me a joke")


def test_the_reward_function_reads_a_query_as_the_scorer_writes_it() -> None:
    prompt = "write 24 sad words about a cat and a boat in the garden"
    response = "the cat is in the garden ."
    query = f"<s> <user> {prompt} <assistant> {response}</s>"
    assert reward_func([query], [""], [None]) == [gold_reward(prompt, response)]
