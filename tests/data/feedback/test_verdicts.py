"""Thumbs up and down in the words of logs, and as the numbers of classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from feedback_rows import load, refused
from word_rows import write

from rto.data.feedback.read import load_feedback
from rto.data.feedback.verdicts import is_verdict, verdict
from rto.errors import UserError

UP = (True, 1, 1.0, "true", "TRUE", "yes", "up", "+1", "1", "thumbs_up", "Thumbs up", "👍", "good")


DOWN = (False, 0, -1, -1.0, "false", "No", "down", "-1", "0", "thumbs-down", "👎", "disliked")


@pytest.mark.parametrize(("values", "wanted"), [(UP, True), (DOWN, False)])
def test_words_for_a_verdict(values: tuple[object, ...], wanted: bool) -> None:
    assert [verdict(value) for value in values] == [wanted] * len(values)


def test_what_is_no_verdict() -> None:
    for value in (None, "maybe", "", 2, 0.5, float("nan"), "2", [], {}):
        assert verdict(value) is None
    assert [is_verdict(x) for x in (True, "up", 1, "1", "+1", 0.0, None)] == [True] * 2 + [
        False
    ] * 5


@pytest.mark.parametrize(
    ("columns", "up", "down"),
    [
        (("completion", "label"), True, False),
        (("completion", "label"), "true", "false"),
        (("completion", "label"), 1, -1),
        (("response", "label"), "up", "down"),
        (("response", "label"), "+1", "-1"),
        (("response", "reward"), True, False),
        (("response", "reward"), "thumbs_up", "thumbs_down"),
    ],
)
def test_verdicts_are_rewards_of_1_and_0(
    tmp_path: Path, columns: tuple[str, str], up: object, down: object
) -> None:
    text, label = columns
    rows = [{"prompt": "p", text: "b", label: down}, {"prompt": "p", text: "a", label: up}]
    assert load(tmp_path, rows) == [("p", (("a", 1.0), ("b", 0.0)))]


def test_numbers_stay_ratings(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": str(r), "reward": r} for r in (1, -1)]
    assert load(tmp_path, rows) == [("p", (("1", 1.0), ("-1", -1.0)))]


@pytest.mark.parametrize(("first", "then"), [(True, 3.5), ("up", 2), (1.0, True), (0.5, "up")])
def test_verdicts_and_ratings_do_not_mix(tmp_path: Path, first: object, then: object) -> None:
    rows = [{"prompt": "p", "response": "a", "reward": reward} for reward in (first, then)]
    assert refused(tmp_path, rows).startswith("row 1: 'reward' ")


def test_a_label_that_is_none(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "a", "label": "maybe"}]
    assert refused(tmp_path, rows).startswith("row 0: 'label' is 'maybe': must be true or false (")


def test_verdicts_have_no_mean(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response": "a", "label": label} for label in (True, False, True, False)
    ]
    (row,) = load_feedback(write(tmp_path / "f.jsonl", rows), split="train")
    assert (row.responses, row.num_merged) == ((("a", 1.0), ("a", 0.0)), 2)


def saved(folder: Path, column: str, names: list[str], values: list[int]) -> str:
    """A data set whose column holds the numbers of these names."""
    text = "completion" if column == "label" else "response"
    rows = {"prompt": ["p"] * 2, text: ["a", "b"], column: values}
    kinds = {"prompt": Value("string"), text: Value("string"), column: ClassLabel(names=names)}
    Dataset.from_dict(rows, features=Features(kinds)).save_to_disk(folder / "saved")
    return str(folder / "saved")


@pytest.mark.parametrize(
    ("column", "names", "rewards"),
    [
        ("label", ["bad", "good"], [0.0, 1.0]),
        ("label", ["good", "bad"], [1.0, 0.0]),
        ("label", ["neg", "pos"], [0.0, 1.0]),
        ("reward", ["thumbs_up", "thumbs_down"], [1.0, 0.0]),
        ("reward", ["5", "-2.5"], [5.0, -2.5]),
    ],
)
def test_the_numbers_of_classes_stand_for_their_names(
    tmp_path: Path, column: str, names: list[str], rewards: list[float]
) -> None:
    (row,) = load_feedback(saved(tmp_path, column, names, [0, 1]), split="train")
    assert dict(row.responses) == dict(zip("ab", rewards, strict=True))


def test_a_number_without_a_class(tmp_path: Path) -> None:
    path = saved(tmp_path, "label", ["good", "bad"], [0, -1])
    with pytest.raises(UserError, match=r"row 1: 'label' is -1, none of its classes good, bad"):
        list(load_feedback(path, split="train"))
