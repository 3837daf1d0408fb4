"""Statistics and findings of small data sets, by hand."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rto.data.feedback.check import (
    BAD_REWARD,
    CORRECTED,
    CUT,
    DUPLICATE,
    EMPTY,
    IDENTICAL,
    INVERTED,
    LONG_PROMPT,
    MALFORMED,
    NO_RESPONSES,
    NOT_FINITE,
    SEAM,
    SINGLE,
    TEMPLATE,
    UNREADABLE_PROMPT,
    Measure,
    Report,
    Tokens,
    Words,
    check,
    spread,
    unusable,
)
from rto.data.feedback.layouts import find_layout
from rto.data.templates import Template
from rto.models.load import load_tokenizer

WORDS = Words()
NESTED = [
    {"prompt": "w0 w1", "responses": [{"text": "w2", "reward": 0.0}, {"text": "w3", "reward": 2}]},
    {"prompt": "w4", "responses": [{"text": "w5 w6 w7", "reward": 4.0}]},
]
PAIR = {"prompt": "w0", "chosen": "w1", "rejected": "w2"}


def report(
    rows: list[dict[str, Any]], *, measure: Measure = WORDS, max_len: int | None = None
) -> Report:
    data = Dataset.from_list(rows)
    return check(data, find_layout(data, "f"), source="f", measure=measure, max_len=max_len)


def found(of: Report) -> dict[str, tuple[int, list[int]]]:
    return {finding.kind: (finding.count, finding.rows) for finding in of.findings}


def flat(*rewards: Any, texts: list[Any] | None = None) -> list[dict[str, Any]]:
    names = texts or [f"w{i + 1}" for i in range(len(rewards))]
    return [
        {"prompt": "w0", "response": text, "reward": reward}
        for text, reward in zip(names, rewards, strict=True)
    ]


def test_the_numbers_of_a_small_set() -> None:
    """Rewards 0 2 4: variance (4 + 0 + 4) / 3. Prompts of 2 and 1 words, responses of 1 1 3."""
    got = report(NESTED)
    assert (got.num_rows, got.num_prompts, got.num_responses) == (2, 2, 3)
    assert (got.layout, got.unit, got.max_len, got.truncated) == ("nested", "words", None, None)
    assert got.responses_per_prompt == {1: 1, 2: 1}
    assert got.rewards is not None
    assert (got.rewards.mean, got.rewards.std) == pytest.approx((2, math.sqrt(8 / 3)))
    assert (got.rewards.min, got.rewards.median, got.rewards.max) == (0, 2, 4)
    assert (got.rewards.counts, got.rewards.edges) == ([1, 1, 1], [0, 2, 4, 4])
    assert got.prompt_length is not None
    assert (got.prompt_length.mean, got.prompt_length.max) == (1.5, 2)
    assert got.response_length is not None
    assert (got.response_length.mean, got.response_length.max) == (pytest.approx(5 / 3), 3)
    assert found(got) == {SINGLE: (1, [1])}


def test_rows_of_one_prompt_count_together() -> None:
    got = report([*flat(1.0, 2.0), {"prompt": "w9", "response": "w1", "reward": 1.0}])
    assert (got.num_rows, got.num_prompts) == (3, 2)
    assert got.responses_per_prompt == {1: 1, 2: 1}
    assert got.prompt_length is not None
    assert sum(got.prompt_length.counts) == 2
    assert found(got) == {SINGLE: (1, [2])}


def test_bad_rows_are_findings_and_the_rest_still_counts() -> None:
    rows = flat(1.0, math.nan, None, math.inf, 5.0, 6.0, 7.0, texts=[*"abcd", "", None, " "])
    got = report([*rows, {"prompt": None, "response": "e", "reward": 1.0}])
    assert found(got) == {
        EMPTY: (3, [4, 5, 6]),
        NOT_FINITE: (2, [1, 3]),
        BAD_REWARD: (1, [2]),
        UNREADABLE_PROMPT: (1, [7]),
    }
    assert {finding.severity for finding in got.findings} == {"error"}
    assert (got.num_rows, got.num_prompts, got.num_responses) == (8, 1, 4)
    assert got.rewards is not None
    assert got.rewards.mean == (1 + 5 + 6 + 7) / 4
    (first,) = (finding.example for finding in got.findings if finding.kind == NOT_FINITE)
    assert first == (
        "f: row 1: 'reward' has reward nan: must be a finite number; repair or drop the row"
    )


def test_rows_that_cannot_be_taken_apart() -> None:
    nothing = report([NESTED[0], {"prompt": "w9", "responses": []}])
    assert found(nothing) == {NO_RESPONSES: (1, [1])}
    assert nothing.responses_per_prompt == {0: 1, 2: 1}
    assert found(report([{"prompt": "w0", "responses": ["w1"]}])) == {MALFORMED: (1, [0])}
    assert found(report([{**PAIR, "chosen": ["w1"], "rejected": ["w2"]}])) == {MALFORMED: (2, [0])}


def test_duplicates_are_of_prompt_and_response() -> None:
    rows = [*flat(1.0, 2.0, 1.0, texts=["a", "b", "a"])]
    assert found(report(rows)) == {DUPLICATE: (1, [2])}
    other = [*rows[:2], *[{**row, "prompt": "w1"} for row in rows[:2]]]
    assert found(report(other)) == {}


def test_sides_of_a_pair() -> None:
    rated = {**PAIR, "chosen_reward": 1.0, "rejected_reward": 0.0}
    rows = [
        rated,
        {**rated, "prompt": "w5", "rejected": "w1"},
        {**rated, "prompt": "w6", "rejected_reward": 3.0},
        {**rated, "prompt": "w7", "rejected_reward": 1.0},
    ]
    assert found(report(rows)) == {
        IDENTICAL: (1, [1]),
        DUPLICATE: (1, [1]),
        INVERTED: (1, [2]),
    }


def test_pairs_without_rewards_have_none() -> None:
    got = report([PAIR])
    assert (got.layout, got.rewards, got.num_responses) == ("preferences", None, 2)
    assert found(got) == {}


def test_a_label_alone_is_no_lonely_response() -> None:
    got = report([{"prompt": "w0", "completion": "w1", "label": True}])
    assert found(got) == {}
    assert got.rewards is not None
    assert (got.rewards.counts, got.rewards.edges) == ([1], [1, 1])


def test_only_the_first_rows_are_named() -> None:
    five, six = report(flat(*[math.nan] * 5)), report(flat(*[math.nan] * 6))
    assert found(five)[NOT_FINITE] == (5, [0, 1, 2, 3, 4])
    assert found(six)[NOT_FINITE] == (6, [0, 1, 2, 3, 4])
    assert [x.more_rows for got in (five, six) for x in got.findings] == [False, True]


def test_the_corrected_scores_are_counted() -> None:
    item = {"response": "w1", "overall_score": 10.0, "fine-grained_score": 2.0}
    rows = [{"instruction": "w0", "completions": [item, {**item, "response": "w2"}]}]
    assert found(report(rows)) == {CORRECTED: (2, [0])}


def test_what_a_limit_cuts_by_hand() -> None:
    """Words: totals 2 + 1, 2 + 1 and 1 + 3, so 3 cuts the last; 2 leaves the first no room."""
    three = report(NESTED, max_len=3)
    assert three.truncated == 1 / 3
    assert found(three)[CUT] == (1, [1])
    assert LONG_PROMPT not in found(three)
    two = report(NESTED, max_len=2)
    assert two.truncated == 1
    assert found(two)[LONG_PROMPT] == (1, [0])
    assert report(NESTED, max_len=4).truncated == 0


@pytest.fixture
def template(tiny_model_dir: Path) -> Template:
    return Template(load_tokenizer(str(tiny_model_dir)))


def test_tokens_leave_room_for_the_end(template: Template) -> None:
    """As ``Limit.example``: one of the three responses has 1 + 3 tokens and EoS."""
    assert report(NESTED, measure=Tokens(template), max_len=5).truncated == 0
    assert report(NESTED, measure=Tokens(template), max_len=4).truncated == 1 / 3


def test_the_chat_template_is_part_of_the_length(template: Template) -> None:
    """<user> w0 w1 <assistant>; the template closes w2 with EoS, which counts apart."""
    chat = Template(template.tokenizer, apply_chat_template=True)
    got = report(NESTED[:1], measure=Tokens(chat))
    assert got.prompt_length is not None
    assert got.response_length is not None
    assert (got.prompt_length.max, got.response_length.max) == (4, 1)


def test_messages_without_a_chat_template(template: Template) -> None:
    rows = [{**row, "prompt": [{"role": "user", "content": "w0"}]} for row in flat(1.0, 2.0)]
    assert found(report(rows, measure=Tokens(template))) == {TEMPLATE: (2, [0, 1])}
    got = report(rows)
    assert got.prompt_length is not None
    assert (got.prompt_length.max, found(got)) == (1, {})


def test_a_template_that_rewrites_the_prompt_is_a_seam(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_dir))
    tokenizer.chat_template = "{% if messages|length > 1 %}w9 {% endif %}" + str(
        tokenizer.chat_template
    )
    chat = Template(tokenizer, apply_chat_template=True)
    got = report(flat(1.0, 2.0, 3.0), measure=Tokens(chat))
    assert found(got) == {SEAM: (3, [0, 1, 2])}
    assert got.num_responses == 3


def test_a_set_without_one_usable_response() -> None:
    said = unusable(report(flat(1.0, texts=[" "])))
    assert said == (
        "f: no usable response in 1 rows: f: row 0: 'response' is empty; repair or drop the row"
    )
    assert unusable(report(flat(1.0))) is None


def test_bins_of_many_values_are_of_equal_width() -> None:
    got = spread(array("d", [i / 10 for i in range(121)]))
    assert got is not None
    assert got.edges == pytest.approx(list(range(13)))
    assert got.counts == [10] * 11 + [11]
    assert spread(array("d")) is None
