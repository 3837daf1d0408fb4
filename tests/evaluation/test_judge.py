"""Verdicts, both orders, ties as half, and judgements that do not parse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rto.data.templates import Message
from rto.errors import UserError
from rto.evaluation.judge import JudgedPair, Judgement, judge_pairs, load_judge_prompt, summarise
from rto.evaluation.judge import reward_win_rate as by_reward

PROMPT = load_judge_prompt("pairwise")
PAIRS = [JudgedPair(i, f"ask {i}", f"model {i}", f"baseline {i}") for i in range(4)]


@pytest.mark.parametrize("name", ["pairwise", "short"])
def test_a_packaged_prompt_shows_both_answers_once(name: str) -> None:
    system, user = load_judge_prompt(name).ask("the request", "{answer_b}", "{instruction}")
    assert system["role"] == "system"
    # What is filled in is text: a field's name in an answer stays as it is.
    assert [user["content"].count(t) for t in ("the request", "{answer_b}", "{instruction}")] == [
        1,
        1,
        1,
    ]
    assert user["content"].index("{answer_b}") < user["content"].index("{instruction}")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A is right.\n[[A]]", "a"),
        ("[[B]] and again [[B]]", "b"),
        ("[[C]]", "tie"),
        ("[[A]] or [[B]]", None),
        ("A", None),
        ("", None),
    ],
)
def test_a_verdict_is_exactly_one_mark(text: str, verdict: str | None) -> None:
    assert PROMPT.verdict(text) == verdict


def scripted(by_pair: Sequence[tuple[str, str]]):
    """A judge that answers the two orders of each pair as told."""

    def ask(talks: Sequence[list[Message]]) -> list[str]:
        answers: list[str] = []
        for i, (first, second) in enumerate(by_pair):
            shown = [talk[-1]["content"] for talk in talks[2 * i : 2 * i + 2]]
            assert shown[0].index(f"model {i}") < shown[0].index(f"baseline {i}")
            assert shown[1].index(f"baseline {i}") < shown[1].index(f"model {i}")
            answers += [first, second]
        assert len(talks) == len(answers)
        return answers

    return ask


def test_both_orders_ties_half_and_what_does_not_parse() -> None:
    """By prompt: won in both orders 1; first place wins twice 0.5; a tie and a loss 0.25; the last
    one has an answer without verdict and is left out."""
    script = [("[[A]]", "[[B]]"), ("[[A]]", "[[A]]"), ("[[C]]", "[[A]]"), ("[[A]]", "hm")]
    judgements = judge_pairs(PAIRS, PROMPT, scripted(script))
    assert [each.winner for each in judgements] == [
        *("model", "model", "model", "baseline", "tie", "baseline", "model", None)
    ]
    found = summarise(judgements)
    assert found.win_rate is not None
    assert found.win_rate.mean == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert found.win_rate.ci95 == (0.25, 1.0)
    assert (found.num_prompts, found.num_left_out) == (4, 1)
    assert (found.num_judgements, found.num_unparsed) == (8, 1)
    assert found.agreement == pytest.approx(1 / 3)


def test_without_a_verdict_there_is_no_win_rate() -> None:
    found = summarise(judge_pairs(PAIRS, PROMPT, scripted([("?", "[[A]]")] * 4)))
    assert found.win_rate is None
    assert found.agreement is None
    assert (found.num_left_out, found.num_unparsed) == (4, 4)


def test_swapping_the_policies_turns_the_win_rate_over() -> None:
    turned = {"model": "baseline", "baseline": "model", "tie": "tie"}
    one = judge_pairs(PAIRS, PROMPT, scripted([("[[A]]", "[[B]]"), ("[[C]]", "[[A]]")] * 2))
    other = [Judgement(j.id, j.order, j.text, turned[str(j.winner)]) for j in one]  # pyright: ignore[reportArgumentType]
    a, b = summarise(one).win_rate, summarise(other).win_rate
    assert a is not None
    assert b is not None
    assert a.mean == pytest.approx(1 - b.mean) == pytest.approx(0.625)


def test_a_reward_model_ties_at_equal_scores() -> None:
    found = by_reward(np.array([1.0, 2.0, 3.0, 0.0]), np.array([0.0, 2.0, 4.0, -1.0]))
    assert found.win_rate is not None
    assert found.win_rate.mean == pytest.approx((1 + 0.5 + 0 + 1) / 4)


GOOD = "{instruction} {answer_a} {answer_b}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not YAML"),
        ("user: a\nuser: b\n", ":2: not YAML: the key 'user' stands twice"),
        ("text", "needs `user`"),
        ("user: '{instruction} {answer_a}'", r"`user` has no \{answer_b\}"),
        (f"user: '{GOOD}'", "`verdicts` needs the marks of a, b and tie"),
        (f"user: '{GOOD}'\nverdicts: {{a: A, b: B}}", "`verdicts` needs the marks"),
        (f"user: '{GOOD}'\nverdicts: {{a: A, b: AB, tie: C}}", "no part of another"),
        (f"user: '{GOOD}'\nverdicts: {{a: 1, b: B, tie: C}}", "each mark is a text"),
        (f"user: '{GOOD}'\nsytem: x", "unknown key sytem"),
    ],
)
def test_a_prompt_of_ones_own_is_checked(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_judge_prompt(str(path))


def test_a_prompt_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no such file, nor one of pairwise, short"):
        load_judge_prompt("pairwize")
