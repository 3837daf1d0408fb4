from __future__ import annotations

import pytest

from rto.data.conversations import split_conversation
from rto.data.templates import Where
from rto.errors import UserError

AT = Where("f", 3, "chosen")
SYSTEM = {"role": "system", "content": "be brief"}


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


ALONE = turns("", "yes")[1:]
LONG = turns("hi", "hello", "and?", "yes")


@pytest.mark.parametrize(
    ("prompt", "response", "asked"),
    [
        ("hi", "yes", "hi"),
        ("hi", ALONE, "hi"),
        (turns("hi"), ALONE, turns("hi")),
        ("hi", turns("hi", "yes"), "hi"),
        (" hi\n", turns("hi", "yes"), " hi\n"),
        (turns("hi"), turns("hi", "yes"), turns("hi")),
        ("hi", LONG, LONG[:-1]),
        (turns("hi"), LONG, LONG[:-1]),
        (LONG[:3], LONG, LONG[:3]),
        (LONG[:3], ALONE, LONG[:3]),
        ("hi", LONG[1:], LONG[:-1]),
        (LONG[:2], LONG[2:], LONG[:3]),
        ("hi", [SYSTEM, *LONG], [SYSTEM, *LONG[:-1]]),
        ("hi", [SYSTEM, *turns("hi", "yes")], [SYSTEM, *turns("hi")]),
        ([SYSTEM, *turns("hi")], LONG, [SYSTEM, *LONG[:-1]]),
        ([SYSTEM, *turns("hi")], [SYSTEM, *turns("hi", "yes")], [SYSTEM, *turns("hi")]),
        ([SYSTEM], turns("hi", "yes"), [SYSTEM, *turns("hi")]),
        (None, LONG, LONG[:-1]),
        (None, [SYSTEM, *LONG], [SYSTEM, *LONG[:-1]]),
        ("hi", [{**ALONE[0], "tool_calls": [], "name": "me"}], "hi"),
    ],
)
def test_every_turn_before_the_answer_is_asked_once(
    prompt: object, response: object, asked: object
) -> None:
    assert split_conversation(prompt, response, AT) == (asked, "yes")


@pytest.mark.parametrize(
    ("prompt", "response", "said"),
    [
        ("hi", " ", "is empty; repair or drop the row"),
        ("hi", None, "is missing; repair or drop the row"),
        ("hi", {"role": "assistant"}, "is a dict, not text; repair or drop the row"),
        ("hi", [], "is not a list of messages"),
        ("hi", [{"role": "assistant"}], "message 0 is not a {role, content} pair"),
        ("hi", [*ALONE, *turns("thanks")], "message 1 is a turn of 'user': an answer is"),
        ("hi", turns("hi", "\n"), "message 1: content is empty: write the answer or drop"),
        ("hi", [{"role": "wizard", "content": "x"}, *ALONE], "message 0: role is 'wizard': one of"),
        ("hi", turns("bye", "yes"), "message 0 does not go on from the prompt"),
        ("hi", [SYSTEM, *ALONE], "message 1 does not go on from the prompt"),
        (
            [{**SYSTEM, "content": "be long"}, *turns("hi")],
            [SYSTEM, *turns("hi", "yes")],
            "has another system turn than the prompt: keep one of them",
        ),
        ("hi", [*turns("hi", "", "and?"), *ALONE], "message 1: content is empty: write the answer"),
        (turns(" "), turns("", "yes"), "message 0: content is empty: write the question or drop"),
        (
            "hi",
            [{"from": "gpt", "value": "x"}],
            "message 0 is not a {role, content} pair (its keys",
        ),
        ("hi", [{"role": "user", "content": 5}], "message 0: content is not text (5): repair"),
        (None, "yes", "is no list of messages, and the row has no prompt beside it"),
        (None, ALONE, "is an answer alone, and the row has no prompt beside it"),
    ],
)
def test_an_answer_that_is_none(prompt: object, response: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        split_conversation(prompt, response, AT)
    assert str(caught.value).startswith(f"f: row 3: 'chosen' {said}")


def test_what_an_answer_says_beside_its_text_is_left_out_and_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Where("told.jsonl", 3, "response")
    for key in ("tool_calls", "reasoning_content", "tool_calls"):
        _, answer = split_conversation("hi", [{**ALONE[0], key: [{"id": 1}]}], place)
        assert answer == ALONE[0]["content"]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"told.jsonl: {key!r} of answers is left out: only their content is trained on"
        for key in ("tool_calls", "reasoning_content")
    ]
