"""Every layout, told by its columns, gives the same rated responses."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rto.cli.main import main
from rto.data.feedback.layouts import LAYOUTS, find_layout, require_rated
from rto.data.feedback.read import load_feedback
from rto.data.sources import load_rows
from rto.errors import UserError
from rto.sections.data import Data


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def completion(text: str, score: float, *ratings: str) -> dict[str, Any]:
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    annotations = {
        name: {"Rating": rating, "Rationale": "because"}
        for name, rating in zip(aspects, ratings, strict=True)
    }
    return {"model": "m", "response": text, "overall_score": score, "annotations": annotations}


FOLDER = Path(__file__).with_name("layouts")


def read(name: str) -> list[dict[str, Any]]:
    text = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


ROWS = {
    name: read(name) for name in ("nested", "flat", "ultrafeedback", "binarized", "pairs", "nemo")
}
"""Rows of the layout that is their key."""
UNPAIRED, PREFERENCES = read("unpaired"), read("preferences")
BEST_FIRST = [("p", (("b", 4.0), ("a", 1.0))), ("q", (("c", 2.0), ("d", 1.0)))]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(
    folder: Path, rows: list[dict[str, Any]], layout: str | None = None
) -> list[tuple[object, tuple[tuple[str, float], ...]]]:
    source = write(folder / "f.jsonl", rows)
    found = load_feedback(source, split="train", data=Data(layout=layout))
    return [(row.prompt, row.responses) for row in found]


@pytest.mark.parametrize("name", ROWS)
def test_a_layout_is_told_by_its_columns(tmp_path: Path, name: str) -> None:
    rows = load_rows(write(tmp_path / "f.jsonl", ROWS[name]))
    assert find_layout(rows, "f").name == name
    assert load(tmp_path, ROWS[name]) == BEST_FIRST


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.jsonl"))])
def test_each_layout_can_be_checked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(FOLDER / f"{name}.jsonl")]) == 0
    assert f"layout {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ROWS)
def test_a_saved_dataset_is_read_like_a_file(tmp_path: Path, name: str) -> None:
    Dataset.from_list(ROWS[name]).save_to_disk(tmp_path / "saved")
    found = load_feedback(str(tmp_path / "saved"), split="train")
    assert [(row.prompt, row.responses) for row in found] == BEST_FIRST


@pytest.mark.parametrize("name", ROWS)
def test_a_prompt_may_be_a_list_of_messages(tmp_path: Path, name: str) -> None:
    column = "instruction" if "instruction" in ROWS[name][0] else "prompt"
    rows = [{**row, column: turns(row[column])} for row in ROWS[name]]
    assert load(tmp_path, rows) == [(turns(p), responses) for p, responses in BEST_FIRST]


def test_labels_are_rewards_of_1_and_0(tmp_path: Path) -> None:
    assert load(tmp_path, UNPAIRED) == [("p", (("b", 1.0), ("a", 0.0))), ("q", (("c", 1.0),))]
    chats = [{**row, "completion": turns(row["prompt"], row["completion"])} for row in UNPAIRED]
    assert load(tmp_path, chats) == load(tmp_path, UNPAIRED)
    with pytest.raises(UserError, match=r"row 1: 'label' is None: must be true or false "):
        load(tmp_path, [UNPAIRED[0], {**UNPAIRED[1], "label": None}])


def test_pairs_without_rewards_are_no_rated_feedback(tmp_path: Path) -> None:
    rows = load_rows(write(tmp_path / "f.jsonl", PREFERENCES))
    with pytest.raises(UserError) as caught:
        require_rated(find_layout(rows, "f.jsonl"), "f.jsonl")
    assert str(caught.value).endswith(
        "f.jsonl: layout preferences has no rewards: add the columns chosen_reward and "
        "rejected_reward, or use it as pairs (rto dpo, rto reward)"
    )


def test_ultrafeedback_by_mean_rating(tmp_path: Path) -> None:
    """(5 + 5 + 4 + 5) / 4; N/A is no rating: (2 + 1 + 2) / 3."""
    found = load(tmp_path, ROWS["ultrafeedback"], layout="ultrafeedback_mean_rating")
    assert found == [
        ("p", (("b", 19 / 4), ("a", 1.0))),
        ("q", (("c", 2.0), ("d", 5 / 3))),
    ]


@pytest.mark.parametrize(
    ("score", "ratings", "reward"),
    [
        (10.0, ("2", "2", "2", "2"), 1.0),
        (10.0, ("2", "2", "2", "3"), 10.0),
        (9.5, ("1", "1", "1", "1"), 9.5),
        (10.0, ("N/A", "N/A", "N/A", "N/A"), 10.0),
    ],
)
def test_ultrafeedbacks_lost_decimal_point(
    tmp_path: Path, score: float, ratings: tuple[str, ...], reward: float
) -> None:
    rows = [{"instruction": "p", "completions": [completion("a", score, *ratings)]}]
    assert load(tmp_path, rows) == [("p", (("a", reward),))]


def test_the_stored_mean_stands_in_for_ratings(tmp_path: Path) -> None:
    item = {"response": "a", "overall_score": 10.0, "fine-grained_score": 1.5}
    rows = [{"instruction": "p", "completions": [item]}]
    assert load(tmp_path, rows) == [("p", (("a", 1.0),))]
    assert load(tmp_path, rows, "ultrafeedback_mean_rating") == [("p", (("a", 1.5),))]


@pytest.mark.parametrize("annotations", [[], ["helpful"], "none", 5])
def test_annotations_of_another_form_hold_no_ratings(tmp_path: Path, annotations: object) -> None:
    item = {"response": "a", "overall_score": 2.0, "annotations": annotations}
    assert load(tmp_path, [{"instruction": "p", "completions": [item]}]) == [("p", (("a", 2.0),))]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"instruction": "p", "completions": [completion("a", 1.0, *"1111"), {"x": 1}]}],
            "row 0: 'completions[1]' is not a completion with a response; repair or drop the row",
        ),
        (
            [{"instruction": "p", "completions": [{"response": "", "overall_score": 1.0}]}],
            "row 0: 'completions[0].response' is empty; repair or drop the row",
        ),
        (
            [{"instruction": "p", "completions": [{"response": "a", "overall_score": None}]}],
            "row 0: 'completions[0].overall_score' has reward None: must be a finite number; "
            "repair or drop the row",
        ),
        (
            [{"instruction": "p", "completions": "[]"}],
            "row 0: 'completions' is a str, not a list; repair or drop the row",
        ),
        (
            [{"prompt": "p", "responses": {"text": "a", "reward": 1}}],
            "row 0: 'responses' is a dict, not a list; repair or drop the row",
        ),
        (
            [ROWS["flat"][0], {**ROWS["flat"][1], "instruction": None}],
            "row 1: 'instruction' is missing; repair or drop the row",
        ),
        (
            [ROWS["flat"][0], {**ROWS["flat"][1], "reward": float("nan")}],
            "row 1: 'reward' has reward nan: must be a finite number; repair or drop the row",
        ),
    ],
)
def test_a_bad_row_is_one_line(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, rows)
    assert str(caught.value) == f"{tmp_path / 'f.jsonl'}: {said}"


def test_a_layout_by_name(tmp_path: Path) -> None:
    rows = [{**ROWS["flat"][0], "responses": [{"text": "z", "reward": 9.0}]}]
    assert load(tmp_path, rows) == [("p", (("z", 9.0),))]
    assert load(tmp_path, rows, "flat") == [("p", (("a", 1.0),))]
    with pytest.raises(UserError, match=r"layout nemo needs the column chosen_response \(columns:"):
        load(tmp_path, rows, "nemo")
    with pytest.raises(UserError, match="needs the column prompt or instruction"):
        load(tmp_path, [{"response": "a", "reward": 1.0}], "flat")
    with pytest.raises(UserError, match=f"unknown layout 'x': one of {', '.join(LAYOUTS)}"):
        load(tmp_path, rows, "x")


def test_many_rows_of_a_prompt_keep_their_order(tmp_path: Path) -> None:
    rows = [{"prompt": "pq"[i % 2], "response": str(i), "reward": 1.0} for i in range(200)]
    found = load(tmp_path, rows)
    texts = [[int(text) for text, _ in responses] for _, responses in found]
    assert texts == [list(range(0, 200, 2)), list(range(1, 200, 2))]


def test_memory_does_not_grow_with_the_responses(tmp_path: Path) -> None:
    """2,000 rows of 10 kB in two interleaved halves of 1,000 prompts: 20 MB on disk."""
    rows = ({"prompt": f"p{i % 1000}", "response": f"{i:010000}", "reward": i} for i in range(2000))
    source = write(tmp_path / "f.jsonl", list(rows))
    tracemalloc.start()
    sizes = [len(row.responses) for row in load_feedback(source, split="train")]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes == [2] * 1000
    assert peak < 4e6
