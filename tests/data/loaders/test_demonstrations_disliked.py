"""A response that was disliked is no demonstration, however few there are for its prompt."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rto.data.accounting import DISLIKED, TOO_LONG
from rto.errors import UserError
from rto.evaluation.questions import load_questions
from rto.registry import build
from rto.runs.prepare import prepare_fit
from rto.sections.parse import parse_run


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "feedback.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def sft(feedback: str, model: Path) -> Any:
    argv = ["--actor.model_name_or_path", str(model), "--data.feedback", feedback]
    argv += ["--train.batch_size", "1", "--data.max_len", "32", "--train.device", "cpu"]
    argv += ["--data.eval_ratio", "0"]
    return prepare_fit(parse_run("sft", argv).config, partial(build, mode="offline"))


def demonstrations(run: Any) -> list[tuple[int, int]]:
    """(prompt's word, response's word) of each, both as they stand in ``w0`` ..."""
    return [(e.prompt_ids[0] - 6, e.response_ids[0] - 6) for (e,) in run.train]


THUMBS = [
    {"prompt": "w0", "response": "w1", "label": False},
    {"prompt": "w2", "response": "w3", "label": True},
    {"prompt": "w4", "response": "w5", "label": False},
    {"prompt": "w4", "response": "w6", "label": True},
    {"prompt": "w7", "response": "w8", "label": -1},
    {"prompt": "w9" + " w0" * 60, "response": "w8", "label": True},
]


def test_disliked_responses_are_left_out_and_counted(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of w0 and w7 every response is disliked; one more prompt is longer than 32 tokens."""
    run = sft(write(tmp_path, THUMBS), tiny_model_dir)
    assert demonstrations(run) == [(2, 3), (4, 6)]
    assert {k: v for k, v in run.row_counts.filtered.items() if v} == {TOO_LONG: 1, DISLIKED: 2}
    assert run.row_counts.read == 5
    said = capsys.readouterr().out
    assert "2 prompts whose every response has a bad verdict are left out, 2 remain" in said


def test_of_numbers_the_best_is_a_demonstration_also_below_zero(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    rows = [{"prompt": "w0", "response": f"w{i}", "reward": -float(i)} for i in (2, 1, 3)]
    run = sft(write(tmp_path, rows), tiny_model_dir)
    assert demonstrations(run) == [(0, 1)]
    assert DISLIKED not in run.row_counts.filtered


def test_nothing_but_dislikes(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(UserError, match="no row is left of 1: 0 have .* 1 no response with a good"):
        sft(write(tmp_path, THUMBS[:1]), tiny_model_dir)


def test_a_disliked_response_is_no_reference(tmp_path: Path) -> None:
    found = load_questions(write(tmp_path, THUMBS[:4]), split="train")
    assert [question.reference for question in found] == [None, "w3", "w6"]
