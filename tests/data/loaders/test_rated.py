"""Rated responses: what becomes of short and long ones, and the constants of their rewards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from feedback_rows import FLAT, NESTED
from stored import stored
from word_rows import word, write

from rto.data.examples import Example, Rated, RatedGroup
from rto.data.loaders.rated import ONE_RESPONSE, load_rated, reward_scale, unrelated_rows
from rto.data.templates import Template
from rto.errors import UserError
from rto.registry import build
from rto.sections.data import Data
from rto.sections.methods import Algo
from rto.sections.run_config import RunConfig

EOS = 2


def test_rated_rows_are_examples_with_a_reward(template: Template, tmp_path: Path) -> None:
    data = Data(feedback=write(tmp_path / "f.jsonl", FLAT))
    found = load_rated(data, template, min_responses=2)
    assert list(found.groups) == [
        (
            Rated((word(0),), (word(2), EOS), True, 3.0),
            Rated((word(0),), (word(1), EOS), True, 0.0),
        ),
        (
            Rated((word(3),), (word(4), EOS), True, -1.0),
            Rated((word(3),), (word(5), EOS), True, -2.0),
        ),
    ]
    assert (found.num_too_long, found.num_too_few) == (0, 0)


def test_duplicates_are_merged_and_counted(template: Template, tmp_path: Path) -> None:
    """w2 stands three times, with rewards 3, 4 and 8; prompt w6 has one response twice."""
    again = [{**FLAT[2], "reward": reward} for reward in (4.0, 8.0)]
    few = [{"prompt": "w6", "response": "w7", "reward": 1.0}] * 2
    data = Data(feedback=write(tmp_path / "f.jsonl", [*FLAT, *again, *few]))
    found = load_rated(data, template, min_responses=2)
    assert [row.reward for row in found.groups[0]] == [5.0, 0.0]
    assert (found.num_merged, found.num_too_few) == (2, 1)


@pytest.mark.parametrize("name", ["kto", "dro"])
def test_the_methods_named_for_one_response_take_one(template: Template, name: str) -> None:
    assert f"--algo {name}" in ONE_RESPONSE
    assert build(RunConfig(algo=Algo(name)), template.tokenizer, mode="offline").min_responses == 1


def test_datasets_come_end_to_end_and_before_the_feedback(
    template: Template, tmp_path: Path
) -> None:
    files = [write(tmp_path / f"{i}.jsonl", [row]) for i, row in enumerate(NESTED)]
    data = Data(dataset=files[::-1], feedback="not read")
    groups = load_rated(data, template, min_responses=1).groups
    assert [group[0].prompt_ids for group in groups] == [(word(3),), (word(0),)]
    one = load_rated(Data(dataset=files, max_samples=1), template, min_responses=1).groups
    assert [group[0].prompt_ids for group in one] == [(word(0),)]


def test_a_prompt_with_few_responses_is_dropped_or_an_error(
    template: Template, tmp_path: Path
) -> None:
    rows = [*NESTED, {"prompt": "w6", "responses": [{"text": "w7", "reward": 1.0}]}]
    path = write(tmp_path / "f.jsonl", rows)
    found = load_rated(Data(feedback=path), template, min_responses=2)
    assert (len(found.groups), found.num_too_few, found.num_too_long) == (2, 1, 0)
    assert len(load_rated(Data(feedback=path), template, min_responses=1).groups) == 3
    strict = Data(feedback=path, on_few_responses="error")
    with pytest.raises(UserError) as caught:
        load_rated(strict, template, min_responses=2)
    assert "f.jsonl: row 2: 'prompt' has 1 rated responses, this method compares 2" in str(
        caught.value
    )


def test_a_prompt_that_is_too_long_is_dropped_or_an_error(
    template: Template, tmp_path: Path
) -> None:
    rows = [NESTED[0], {"prompt": "w3 w4 w5", "responses": NESTED[1]["responses"]}]
    path = write(tmp_path / "f.jsonl", rows)
    found = load_rated(Data(feedback=path, max_len=3), template, min_responses=2)
    assert (len(found.groups), found.num_too_long, found.num_too_few) == (1, 1, 0)
    strict = Data(feedback=path, max_len=3, on_long_prompt="error")
    with pytest.raises(UserError, match=r"f.jsonl: row 1: 'prompt' has 3 tokens, which leaves no"):
        load_rated(strict, template, min_responses=2)


def test_a_response_is_cut_at_the_limit_and_then_has_no_end(
    template: Template, tmp_path: Path
) -> None:
    rows = [{"prompt": "w0", "response": "w1 w2 w3", "reward": 1.0}]
    path = write(tmp_path / "f.jsonl", rows)
    ((row,),) = load_rated(Data(feedback=path, max_len=3), template, min_responses=1).groups
    assert row == Rated((word(0),), (word(1), word(2)), False, 1.0)


def test_no_usable_prompt_says_why(template: Template, tmp_path: Path) -> None:
    rows = [
        {"prompt": "w0 w1 w2", "response": "w3", "reward": 0.0},
        {"prompt": "w0", "response": "w3", "reward": 0.0},
    ]
    data = Data(feedback=write(tmp_path / "f.jsonl", rows), max_len=3)
    with pytest.raises(UserError) as caught:
        load_rated(data, template, min_responses=2)
    said = "no usable prompt of 2: 1 are too long for data.max_len, 1 have fewer than 2 responses"
    assert said in str(caught.value)
    assert str(caught.value).endswith("--algo kto and --algo dro can learn from it")
    with pytest.raises(UserError, match=r"no rated responses: set data\.feedback"):
        load_rated(Data(), template, min_responses=1)


def group(*rewards: float, prompt: int = 0) -> RatedGroup:
    """Responses (prompt, i) to a prompt."""
    return tuple(Rated((prompt,), (prompt, i), True, r) for i, r in enumerate(rewards))


def test_constants_of_the_rewards_by_hand() -> None:
    """All rows 1 3 5 11: mean 5, squares 16 + 4 + 0 + 36. Within prompts -1 1 -3 3: squares 20."""
    groups = [group(1, 3), group(5, 11)]
    none, zscore, within = (
        reward_scale(stored(groups), scaling) for scaling in ("none", "zscore", "within_prompt")
    )
    assert (none.mean, none.std) == (0, 1)
    assert (zscore.mean, zscore.std) == pytest.approx((5, math.sqrt(56 / 4)))
    assert (within.mean, within.std) == pytest.approx((0, math.sqrt(20 / 4)))


def test_scaled_rewards() -> None:
    groups = [group(1, 3), group(5, 11)]
    assert [
        none.apply(g) for none in [reward_scale(stored(groups), "none")] for g in groups
    ] == groups
    scale = reward_scale(stored(groups), "zscore")
    rewards = [row.reward for g in groups for row in scale.apply(g)]
    assert sum(rewards) == pytest.approx(0)
    assert sum(r * r for r in rewards) / 4 == pytest.approx(1)
    assert scale.apply(groups[1])[1].response_ids == groups[1][1].response_ids


def test_within_prompt_ignores_what_a_prompt_is_worth() -> None:
    plain = reward_scale(stored([group(1, 3), group(5, 11)]), "within_prompt")
    shifted = reward_scale(stored([group(1, 3), group(-95, -89)]), "within_prompt")
    assert shifted == plain


@pytest.mark.parametrize("scaling", ["zscore", "within_prompt"])
def test_equal_rewards_are_refused(scaling: Any) -> None:
    with pytest.raises(UserError, match=rf"all rewards are equal \({scaling}\)"):
        reward_scale(stored([group(0.1, 0.1, 0.1), group(0.1, 0.1)]), scaling)
    assert reward_scale(stored([group(1, 1)]), "none").std == 1


def test_rewards_equal_within_prompts_teach_nothing_within_prompts() -> None:
    groups = [group(0.1, 0.1, 0.1), group(0.7, 0.7)]
    assert reward_scale(stored(groups), "zscore").std > 0
    with pytest.raises(UserError, match="all rewards are equal"):
        reward_scale(stored(groups), "within_prompt")


def test_unrelated_rows_by_hand() -> None:
    """The next prompt's responses in turn, the first prompt's for the last."""
    groups = [group(0, 0, 0, prompt=1), group(0, 0, prompt=2), group(0, prompt=3)]
    got = [(row.prompt_ids, row.response_ids) for row in unrelated_rows(stored(groups), max_len=99)]
    assert got == [
        ((1,), (2, 0)),
        ((1,), (2, 1)),
        ((1,), (2, 0)),
        ((2,), (3, 0)),
        ((2,), (3, 0)),
        ((3,), (1, 0)),
    ]


@pytest.mark.parametrize("sizes", [(1, 1), (2, 5), (4, 1, 3), (3,) * 7])
def test_no_prompt_meets_its_own_response(sizes: tuple[int, ...]) -> None:
    groups = [group(*[0.0] * size, prompt=i) for i, size in enumerate(sizes)]
    rows = unrelated_rows(stored(groups), max_len=99)
    assert [row.prompt_ids for row in rows] == [row.prompt_ids for g in groups for row in g]
    assert all(row.response_ids[0] != row.prompt_ids[0] for row in rows)


def test_an_unrelated_response_that_was_cut_stays_unfinished() -> None:
    first, second = Example((1,), (4, EOS), True), Example((2,), (5, 5), False)
    rows = unrelated_rows(stored([(first,), (second,)]), max_len=99)
    assert [row.finished for row in rows] == [False, True]


def test_an_unrelated_response_is_cut_to_fit_behind_its_new_prompt() -> None:
    first, second = Example((1,), (4, EOS), True), Example((2, 2, 2), (5, EOS), True)
    rows = unrelated_rows(stored([(first,), (second,)]), max_len=4)
    assert [(row.response_ids, row.finished) for row in rows] == [((5, EOS), True), ((4,), False)]
    with pytest.raises(UserError, match="two prompts or more"):
        unrelated_rows(stored([(first,)]), max_len=4)


def test_the_rewards_are_those_of_the_layout_asked_for(tmp_path: Path, template: Template) -> None:
    both = [
        {
            "prompt": "w0",
            "response": f"w{i}",
            "reward": 1.0 * i,
            "completion": f"w{i}",
            "label": i > 0,
        }
        for i in range(3)
    ]
    source = write(tmp_path / "f.jsonl", both)
    found = {
        layout: [row.reward for row in load_rated(data, template, min_responses=1).groups[0]]
        for layout in (None, "unpaired")
        for data in [Data(feedback=source, max_len=8, layout=layout)]
    }
    assert found == {None: [2, 1, 0], "unpaired": [1, 1, 0]}
