"""Feedback as rows of another layout: what one prompt becomes, and what rewards are put through."""

from __future__ import annotations

import json
import statistics
from array import array
from pathlib import Path
from typing import Any

import pytest
from word_rows import write

from rto.data.feedback.convert import (
    Conversion,
    Target,
    Written,
    held_out,
    per_prompt,
    to_rows,
    zscore,
)
from rto.data.feedback.layouts import Layout
from rto.data.feedback.read import Feedback, Source
from rto.data.templates import Where
from rto.errors import UserError
from rto.sections.data import Data

RATED = Layout("flat", (), lambda row: iter(()))
RANKED = Layout("preferences", (), lambda row: iter(()), rated=False)


def feedback(*responses: tuple[str, float], prompt: str = "p", binary: bool = False) -> Feedback:
    return Feedback(prompt, responses, Where("f", 0, "prompt"), binary=binary)


ROW = feedback(("a", 3.0), ("b", 3.0), ("c", 1.0))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            "nested",
            [{"prompt": "p", "responses": [{"text": t, "reward": r} for t, r in ROW.responses]}],
        ),
        ("flat", [{"prompt": "p", "response": t, "reward": r} for t, r in ROW.responses]),
        (
            "unpaired",
            [
                {"prompt": "p", "completion": t, "label": label}
                for t, label in (("a", True), ("b", True), ("c", False))
            ],
        ),
        (
            "pairs",
            [{"prompt": "p", "chosen": "a", "rejected": "c", "chosen_reward": 3.0,
              "rejected_reward": 1.0}],
        ),
        ("sft", [{"prompt": "p", "response": "a"}]),
        ("prompts", [{"prompt": "p"}]),
    ],
)  # fmt: skip
def test_what_a_prompt_becomes(target: Target, expected: list[dict[str, Any]]) -> None:
    """Of pairs, the best response against each with a lower reward; labels from 3 on."""
    assert list(to_rows(ROW, target, 3.0, RATED)) == expected


def test_rewards_that_only_rank_are_not_written() -> None:
    assert list(to_rows(ROW, "pairs", 0.0, RANKED)) == [
        {"prompt": "p", "chosen": "a", "rejected": "c"}
    ]


def test_a_response_that_was_disliked_is_no_demonstration() -> None:
    assert list(to_rows(feedback(("a", 0.0), binary=True), "sft", 0.0, RATED)) == []
    assert len(list(to_rows(feedback(("a", 0.0)), "sft", 0.0, RATED))) == 1


def test_standard_scores_have_mean_0_and_variance_1() -> None:
    rewards = array("d", [1.0, 3.0, 5.0, 11.0])
    scaled = zscore(rewards).apply(feedback(*((str(r), r) for r in rewards)))
    values = [reward for _, reward in scaled.responses]
    assert statistics.fmean(values) == pytest.approx(0)
    assert statistics.pstdev(values) == pytest.approx(1)
    with pytest.raises(UserError, match="all rewards are equal"):
        zscore(array("d", [2.0, 2.0]))


def test_standard_scores_of_a_prompt_and_equal_rewards_become_0() -> None:
    assert [r for _, r in per_prompt(feedback(("a", 9.0), ("b", 5.0))).responses] == [1.0, -1.0]
    assert [r for _, r in per_prompt(feedback(("a", 7.0), ("b", 7.0))).responses] == [0.0, 0.0]


def test_the_prompts_that_are_held_out_are_drawn_by_the_seed() -> None:
    rows = [feedback(("a", 1.0), prompt=str(i % 20)) for i in range(40)]
    drawn = [held_out(rows, ratio=0.25, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(each) for each in drawn] == [5, 5, 5], "a quarter of twenty prompts"
    with pytest.raises(UserError, match="holds out 0 of 20 prompts: both sides need one"):
        held_out(rows, ratio=0.01, seed=0)


def test_what_is_written_is_counted() -> None:
    written = Written(Path("f")).plus(2, 0).plus(0, 3)
    assert (written.num_rows, written.num_prompts, written.num_empty, written.num_merged) == (
        2, 2, 1, 3,
    )  # fmt: skip


FLAT = [
    {"prompt": f"p{i}", "response": text, "reward": reward}
    for i in range(4)
    for text, reward in (("a", 2.0 * i), ("b", 2.0 * i + 1))
]


def conversion(folder: Path, rows: list[dict[str, Any]] = FLAT, **options: Any) -> Conversion:
    source = Source.open(write(folder / "f.jsonl", rows), Data(), split="train")
    return Conversion(rows=source.rows, layout=source.layout, source=source.name, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("threshold", "good"), [(None, 4), ("mean", 4), ("median", 4), (6.5, 1), (0.0, 8)]
)
def test_labels_are_of_the_rewards_that_reach_the_threshold(
    threshold: Any, good: int, tmp_path: Path
) -> None:
    """Rewards 0 to 7: their mean and their median are 3.5."""
    conversion(tmp_path, to="unpaired", threshold=threshold).write([tmp_path / "out"])
    assert sum(row["label"] for row in lines(tmp_path / "out")) == good


def test_constants_come_from_the_training_side_alone(tmp_path: Path) -> None:
    paths = [tmp_path / "train", tmp_path / "held"]
    made = conversion(tmp_path, to="flat", normalise="zscore", split=0.25).write(paths)
    train, held = (lines(path) for path in paths)
    assert statistics.fmean(row["reward"] for row in train) == pytest.approx(0)
    assert abs(statistics.fmean(row["reward"] for row in held)) > 0.1
    assert [side.num_prompts for side in made] == [3, 1]


def test_nothing_is_written_where_no_prompt_gives_a_row(tmp_path: Path) -> None:
    equal = [{**row, "reward": 1.0} for row in FLAT]
    with pytest.raises(UserError, match="no prompt of .* gives a row: a pair takes two responses"):
        conversion(tmp_path, equal, to="pairs").write([tmp_path / "out"])
    assert [path.name for path in tmp_path.iterdir()] == ["f.jsonl"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "flat", "threshold": 1.0}, "--threshold makes labels: it needs --to unpaired"),
        ({"to": "sft", "normalise": "zscore"}, "--normalise changes rewards: --to sft writes none"),
    ],
)
def test_settings_without_an_effect_are_refused(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        conversion(tmp_path, **options)
