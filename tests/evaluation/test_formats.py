"""Answers in the benchmarks' formats; alpaca_eval itself scores ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import alpaca_eval
import pytest
import yaml

from rto.errors import UserError
from rto.evaluation.formats import Answers, alpaca_row, read_answers, style, write_answers
from rto.evaluation.questions import Question

QUESTIONS = [
    Question("u0", ("say a",), dataset="toy", category="x"),
    Question("u1", ("say b",)),
    Question("u2", ("say c",)),
]
TWO_TURNS = [Question(81, ("first", "then")), Question(82, ("one", "two"))]


def answers(name: str, *texts: str) -> Answers:
    return Answers(name, [(text,) for text in texts], [True] * len(texts))


def test_alpaca_eval_scores_our_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own `evaluate` on two of our files. Its judge here takes the longer output, by
    which ours wins one and loses one; the package itself shuffles positions and puts them back."""
    write_answers(tmp_path / "m", QUESTIONS[:2], answers("ours", "a long answer", "b"), tstamp=0.0)
    write_answers(tmp_path / "b", QUESTIONS[:2], answers("theirs", "short", "longer"), tstamp=0.0)
    template = tmp_path / "judge.txt"
    template.write_text("<|im_start|>user\n{output_1}|{output_2}\n<|im_end|>")
    seen: list[str] = []

    def longer(prompts: Any, **settings: Any) -> dict[str, Any]:
        texts = [str(prompt).split("\n")[1].split("|") for prompt in prompts]
        seen.extend(text for pair in texts for text in pair)
        picked = ["(1)" if len(a) > len(b) else "(2)" for a, b in texts]
        return {"completions": picked}

    judge = {
        "prompt_template": str(template),
        "fn_completions": "longer",
        "fn_completion_parser": "regex_parser",
        "completion_parser_kwargs": {"outputs_to_match": {1: r"\(1\)", 2: r"\(2\)"}},
    }
    # A judge file can only name the package's own decoders: ours takes the place of one.
    monkeypatch.setattr("alpaca_eval.annotators.base.get_fn_completions", lambda name: longer)
    (tmp_path / "longer").mkdir()
    (tmp_path / "longer" / "configs.yaml").write_text(yaml.safe_dump({"longer": judge}))
    board, annotations = cast(Any, alpaca_eval).evaluate(
        model_outputs=str(tmp_path / "m" / "model_outputs.json"),
        reference_outputs=str(tmp_path / "b" / "model_outputs.json"),
        annotators_config=str(tmp_path / "longer"),
        is_return_instead_of_print=True,
        precomputed_leaderboard=None,
        output_path=None,
        caching_path=None,
        fn_metric="get_winrate",
        sort_by="win_rate",
    )
    assert list(board.index) == ["ours"]
    assert board.loc["ours", "win_rate"] == 50.0
    assert board.loc["ours", "n_total"] == 2
    by_instruction = {row["instruction"]: row["preference"] for row in annotations}
    assert by_instruction == {"say a": 2.0, "say b": 1.0}
    assert set(seen) == {"a long answer", "short", "b", "longer"}


def test_the_rows_of_each_format(tmp_path: Path) -> None:
    given = Answers("me", [("A1", "A2"), ("B1", "**B2**")], [True, False])
    write_answers(tmp_path, TWO_TURNS, given, tstamp=5.0)
    arena, mt = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("arena_hard", "mt_bench")
    )
    assert [row["uid"] for row in arena] == ["81", "82"]
    assert arena[0]["model"] == "me"
    assert arena[0]["messages"] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": {"answer": "A1"}},
        {"role": "user", "content": "then"},
        {"role": "assistant", "content": {"answer": "A2"}},
    ]
    assert arena[1]["metadata"]["bold_count"] == {"**": 1, "__": 0}
    assert {k: mt[0][k] for k in ("question_id", "model_id", "choices", "tstamp")} == {
        "question_id": 81,
        "model_id": "me",
        "choices": [{"index": 0, "turns": ["A1", "A2"]}],
        "tstamp": 5.0,
    }
    assert len({row["answer_id"] for row in mt}) == 2


@pytest.mark.parametrize("file", ["model_outputs.json", "arena_hard.jsonl", "mt_bench.jsonl"])
def test_what_is_written_is_read_back(tmp_path: Path, file: str) -> None:
    given = answers("me", "a", "", "c")
    write_answers(tmp_path, QUESTIONS, given, tstamp=0.0)
    # In any order, and for some of the prompts.
    asked = [QUESTIONS[2], QUESTIONS[1]]
    assert read_answers(str(tmp_path / file), asked, name="me").turns == [("c",), ("",)]


def test_old_arena_hard_turns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    row = {"question_id": "u0", "choices": [{"turns": [{"content": "yes", "token_len": 1}]}]}
    path.write_text(json.dumps(row))
    assert read_answers(str(path), QUESTIONS[:1], name="x").turns == [("yes",)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "neither a JSON list nor JSON lines"),
        ("[]", "holds no answers"),
        ('[{"instruction": "say a"}]', "row 0: no answer in a known format"),
        ('[{"instruction": "say a", "output": 3}]', "row 0: .*int is not text"),
        ('[{"instruction": "other", "output": "x"}]', r"no answer to question u0 .*'say a'"),
        (
            '[{"instruction": "say a", "output": "x"}, {"instruction": "say a", "output": "y"}]',
            "row 1: a second answer to 'say a'",
        ),
    ],
)
def test_outputs_that_do_not_fit(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_answers(str(path), QUESTIONS[:1], name="x")


def test_lines_of_rto_generate_are_read(tmp_path: Path) -> None:
    """A line separator inside a text ends no line of the file."""
    path = tmp_path / "out.jsonl"
    row = {"id": 9, "prompt": "say a", "response": "a\u2028b", "sample": 0, "finished": False}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    answers = read_answers(str(path), QUESTIONS[:1], name="x")
    assert (list(answers.turns), list(answers.finished)) == ([("a\u2028b",)], [False])


def test_a_missing_second_turn_is_said(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"question_id": 81, "choices": [{"turns": ["only"]}]}))
    with pytest.raises(UserError, match="1 answers to question 81 of 2 turns"):
        read_answers(str(path), TWO_TURNS[:1], name="x")


def test_alpaca_rows_hold_the_first_turn() -> None:
    assert alpaca_row(TWO_TURNS[0], ("A1", "A2"), "me") == {
        "dataset": "",
        "instruction": "first",
        "output": "A1",
        "generator": "me",
    }


def test_style_counts_markdown() -> None:
    found = style("# Head\n\n- one\n* two\n1. three\n\n__u__ and **b** and **c**")
    assert found["header_count"]["h1"] == 1
    assert found["list_count"] == {"ordered": 1, "unordered": 2}
    assert found["bold_count"] == {"**": 2, "__": 1}
