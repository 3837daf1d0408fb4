"""`rto data`: the report on a terminal, and round trips between layouts."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from rto.cli.data import histogram
from rto.cli.main import main

NESTED = [
    {"prompt": f"p{i}", "responses": [{"text": "b", "reward": i + 2.0}, {"text": "a", "reward": i}]}
    for i in range(5)
]
FLAT = [
    {"prompt": row["prompt"], "response": item["text"], "reward": item["reward"]}
    for row in NESTED
    for item in row["responses"]
]
LONG = {"prompt": "a b", "response": "c", "reward": 3.0}
PREFERENCES = [
    {"prompt": "p", "chosen": "b", "rejected": "a"},
    {"prompt": "p", "chosen": "c", "rejected": "d"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def convert(folder: Path, rows: list[dict[str, Any]], *flags: str) -> list[dict[str, Any]]:
    source, target = write(folder / "source.jsonl", rows), folder / "target.jsonl"
    target.unlink(missing_ok=True)
    assert main(["data", "convert", source, str(target), *flags]) == 0
    return read(target)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["data", *argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def test_there_and_back(tmp_path: Path) -> None:
    flat = convert(tmp_path, NESTED, "--to", "flat")
    assert flat == FLAT
    assert convert(tmp_path, flat, "--to", "nested") == NESTED
    pairs = convert(tmp_path, NESTED, "--to", "pairs")
    assert pairs[1] == {
        "prompt": "p1",
        "chosen": "b",
        "rejected": "a",
        "chosen_reward": 3.0,
        "rejected_reward": 1.0,
    }
    assert convert(tmp_path, pairs, "--to", "nested") == NESTED


def test_a_conversation_stays_one(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "é"}]
    rows = [{**row, "prompt": prompt} for row in FLAT[:2]]
    assert convert(tmp_path, rows, "--to", "flat") == rows


def test_pairs_are_the_best_against_each_lower_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = {"a": 1.0, "b": 3.0, "c": 3.0, "d": 2.0}
    rows = [{"prompt": "p", "response": text, "reward": r} for text, r in rewards.items()]
    rows.append({"prompt": "q", "response": "e", "reward": 1.0})
    pairs = convert(tmp_path, rows, "--to", "pairs")
    assert [(x["chosen"], x["rejected"]) for x in pairs] == [("b", "d"), ("b", "a")]
    said = capsys.readouterr().out
    assert said.endswith("target.jsonl: 2 rows of 1 prompts; 1 more make no pair\n")


def test_pairs_without_rewards_keep_their_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(tmp_path, PREFERENCES, "--to", "pairs") == PREFERENCES
    labels = convert(tmp_path, PREFERENCES, "--to", "unpaired")
    assert [(x["completion"], x["label"]) for x in labels] == [
        ("b", True),
        ("a", False),
        ("c", True),
        ("d", False),
    ]
    capsys.readouterr()
    source = write(tmp_path / "p.jsonl", PREFERENCES)
    for flags in (["--to", "flat"], ["--to", "pairs", "--normalise", "zscore"]):
        said = refused(["convert", source, str(tmp_path / "new.jsonl"), *flags], capsys)
        assert "layout preferences has no rewards: add the columns chosen_reward" in said
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "labels"),
    [
        ([], [True, False, False, False]),
        (["--threshold", "mean"], [True, False, False, False]),
        (["--threshold", "median"], [True, True, False, False]),
        (["--threshold", "2"], [True, True, True, False]),
        (["--threshold", "-1", "--normalise", "zscore"], [True, True, True, True]),
    ],
)
def test_labels_by_threshold(tmp_path: Path, flags: list[str], labels: list[bool]) -> None:
    """Rewards 9 3 2 1: mean 3.75, median 2.5; as z-scores the least is -0.89."""
    rows = [{"prompt": "p", "response": f"w{r}", "reward": r} for r in (9, 3, 2, 1)]
    found = convert(tmp_path, rows, "--to", "unpaired", *flags)
    assert [row["label"] for row in found] == labels
    assert found[0] == {"prompt": "p", "completion": "w9", "label": True}


@pytest.mark.parametrize("label", [True, False])
def test_labels_stay_what_they_are(tmp_path: Path, label: bool) -> None:
    rows = [{"prompt": "p", "completion": "a", "label": label}]
    assert convert(tmp_path, rows, "--to", "unpaired") == rows


def test_normalised_rewards_by_hand(tmp_path: Path) -> None:
    """Rewards 2 0 | 3 1 | 4 2 | 5 3 | 6 4: mean 3, squares 1 9 0 4 1 1 4 0 9 1 of 10."""
    zscores = convert(tmp_path, NESTED, "--to", "flat", "--normalise", "zscore")
    std = math.sqrt(30 / 10)
    expected = [(row["reward"] - 3) / std for row in FLAT]
    assert [row["reward"] for row in zscores] == pytest.approx(expected)
    within = convert(tmp_path, NESTED, "--to", "flat", "--normalise", "per_prompt")
    assert [row["reward"] for row in within] == [1.0, -1.0] * 5
    equal = convert(
        tmp_path, [{**x, "reward": 7} for x in FLAT], "--to", "flat", "--normalise", "per_prompt"
    )
    assert {row["reward"] for row in equal} == {0.0}


def test_equal_rewards_have_no_zscore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "s.jsonl", [{**row, "reward": 7} for row in FLAT])
    target = ["--to", "flat", "--normalise", "zscore"]
    said = refused(["convert", source, str(tmp_path / "t.jsonl"), *target], capsys)
    assert "zscore: all rewards are equal" in said


def test_demonstrations_are_the_best_response_to_each_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = convert(tmp_path, FLAT, "--to", "sft")
    assert found == [{"prompt": f"p{i}", "response": "b"} for i in range(5)]
    labels = [("p", "a", False), ("p", "b", True), ("q", "c", False)]
    rows = [{"prompt": p, "completion": text, "label": x} for p, text, x in labels]
    assert convert(tmp_path, rows, "--to", "sft") == [{"prompt": "p", "response": "b"}]
    assert "1 rows of 1 prompts; 1 more make no row" in capsys.readouterr().out
    assert convert(tmp_path, PREFERENCES, "--to", "sft") == [{"prompt": "p", "response": "b"}]


def test_each_prompt_once(tmp_path: Path) -> None:
    assert convert(tmp_path, FLAT, "--to", "prompts") == [{"prompt": f"p{i}"} for i in range(5)]
    assert convert(tmp_path, PREFERENCES, "--to", "prompts") == [{"prompt": "p"}]


def test_turns_before_the_last_answer_stay_in_the_prompt(tmp_path: Path) -> None:
    chat = [{"role": r, "content": c} for r, c in (("user", "p"), ("assistant", "x"))]
    chat += [{"role": "user", "content": "and?"}]
    sides = {
        side: [*chat, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")
    }
    row = {"prompt": "p", **sides, "score_chosen": 2, "score_rejected": 1}
    (pair,) = convert(tmp_path, [row], "--to", "pairs")
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (chat, "chosen", "rejected")


def test_columns_by_other_names(tmp_path: Path) -> None:
    rows = [{"question": "p", "answer": "a", "score": 1}]
    names = ["--columns", "prompt=question,response=answer", "--columns", "reward=score"]
    assert convert(tmp_path, rows, *names, "--to", "sft") == [{"prompt": "p", "response": "a"}]


def test_texts_are_written_as_they_are(tmp_path: Path) -> None:
    texts = ["007", "1969-07-20", "null", "None", "1e5"]
    rows = [{"prompt": "p", "response": text, "reward": 0} for text in texts]
    assert [x["response"] for x in convert(tmp_path, rows, "--to", "flat")] == texts


def test_duplicates_are_merged_or_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewards = [("a", 1.0), ("b", 2.5), ("a", 3.0), ("a", 5.0)]
    rows = [{"prompt": "p", "response": text, "reward": r} for text, r in rewards]
    merged = convert(tmp_path, rows, "--to", "flat")
    assert [(x["response"], x["reward"]) for x in merged] == [("a", 3.0), ("b", 2.5)]
    said = capsys.readouterr().out
    assert said.endswith("prompts; 2 duplicates merged, with the mean of their rewards\n")
    kept = convert(tmp_path, rows, "--to", "flat", "--merge_duplicates", "keep")
    assert [x["reward"] for x in kept] == [5.0, 3.0, 2.5, 1.0]


def split(folder: Path, *flags: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of every prompt lie apart in the source."""
    folder.mkdir()
    source = write(folder / "s.jsonl", [*FLAT[::2], *FLAT[1::2]])
    argv = ["data", "convert", source, str(folder / "t.jsonl"), "--to", "flat", "--split", "0.4"]
    assert main([*argv, *flags]) == 0
    assert not (folder / "t.jsonl").exists()
    return read(folder / "t-train.jsonl"), read(folder / "t-eval.jsonl")


def test_a_split_is_by_prompt(tmp_path: Path) -> None:
    """0.4 of five prompts with two rows each."""
    train, held_out = split(tmp_path / "a")
    assert (len(train), len(held_out)) == (6, 4)
    sides = [{row["prompt"] for row in side} for side in (train, held_out)]
    assert sides[0] | sides[1] == {f"p{i}" for i in range(5)}
    assert not sides[0] & sides[1]
    assert split(tmp_path / "b") == (train, held_out)
    others = [split(tmp_path / f"seed{i}", "--seed", str(i))[1] for i in range(4)]
    assert any(other != held_out for other in others)


def test_constants_come_from_the_training_split(tmp_path: Path) -> None:
    train, held_out = split(tmp_path / "a", "--normalise", "zscore")
    rewards = [row["reward"] for row in train]
    assert sum(rewards) == pytest.approx(0, abs=1e-9)
    assert sum(r * r for r in rewards) / len(rewards) == pytest.approx(1)
    stored = {(row["prompt"], row["response"]): row["reward"] for row in FLAT}
    used = [stored[row["prompt"], row["response"]] for row in train]
    mean = sum(used) / len(used)
    std = math.sqrt(sum((r - mean) ** 2 for r in used) / len(used))
    for row in held_out:
        expected = (stored[row["prompt"], row["response"]] - mean) / std
        assert row["reward"] == pytest.approx(expected)


def test_a_file_without_rows_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "s.jsonl", [{**row, "reward": 1} for row in FLAT])
    said = refused(["convert", source, str(tmp_path / "t.jsonl"), "--to", "pairs"], capsys)
    assert "gives a row: a pair takes two responses with different rewards" in said
    assert [path.name for path in tmp_path.iterdir()] == ["s.jsonl"]


def test_a_bad_row_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "s.jsonl", [*FLAT, {**FLAT[0], "response": None}])
    said = refused(["convert", source, str(tmp_path / "t.jsonl"), "--to", "flat"], capsys)
    assert f"{source}: row 10: 'response' is missing; repair or drop the row" in said
    assert [path.name for path in tmp_path.iterdir()] == ["s.jsonl"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["t.json", "--to", "flat"], "the target t.json must end in .jsonl"),
        (["{old}", "--to", "flat"], "s.jsonl exists: remove it or choose another target"),
        (["no/t.jsonl", "--to", "flat"], "no is not a directory: create it"),
        (["t.jsonl"], "the following arguments are required: --to"),
        (["t.jsonl", "--to", "csv"], "argument --to: invalid choice: 'csv'"),
        (["t.jsonl", "--to", "flat", "--threshold", "1"], "--threshold makes labels"),
        (["t.jsonl", "--to", "flat", "--threshold", "x"], "'x': mean, median or a number"),
        (["t.jsonl", "--to", "flat", "--split", "1.5"], "1.5: must be between 0 and 1"),
        (["t.jsonl", "--to", "flat", "--split", "0.01"], "holds out 0 of 5 prompts"),
        (["t.jsonl", "--to", "flat", "--normalize", "zscore"], "did you mean --normalise?"),
        (["t.jsonl", "--to", "sft", "--normalise", "zscore"], "--to sft writes none"),
        (["t.jsonl", "--to", "flat", "--seed=-1"], "'-1': must be a whole number from 0 on"),
        (["t.jsonl", "--to", "unpaired", "--threshold", "nan"], "'nan': must be finite"),
        (["t.jsonl", "--to", "flat", "--columns", "a=b"], "no column 'b'"),
        (["t.jsonl", "--to", "flat", "--columns", "ab"], "data.columns has 'ab': write NEW=OLD"),
    ],
)
def test_a_wrong_argument_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "s.jsonl", FLAT)
    argv = [flag.replace("{old}", "s.jsonl") for flag in flags]
    assert said in refused(["convert", source, *argv], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["s.jsonl"]


def test_bars_are_in_proportion() -> None:
    """Of 40 characters in eighths: 320 of 320, 100 of 320 is 12 and a half, 0 and at least 1."""
    lines = histogram(["a", "bb", "c", "d"], [3200, 1000, 0, 1])
    assert lines == [
        " a " + "█" * 40 + " 3,200",
        "bb " + "█" * 12 + "▌ 1,000",
        " c  0",
        " d ▏ 1",
    ]


def test_a_report_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "f.jsonl", [*FLAT, {**FLAT[0], "reward": None}, LONG])
    assert main(["data", "check", path, "--max_len", "2"]) == 0
    said = capsys.readouterr().out
    assert f"{path}: layout flat, 12 rows, 6 prompts, 12 responses" in said
    assert re.search(r"^  2 █{40} 4$", said, re.M)
    assert re.search(r"^  3 █{10} 1$", said, re.M)
    findings = said[said.index("findings") :].splitlines()
    assert [re.sub(" +", " ", line) for line in findings] == [
        "findings",
        " error 1 rewards that are missing or no number: 10",
        " row 10: 'reward' has reward None: must be a finite number; repair or drop the row",
        " error 1 prompts that leave no room for a response: 11",
        " row 11: 2 words, limit 2",
        " warning 1 duplicates of a prompt and response: 10",
        " row 10: 'response' answers its prompt a second time",
        " warning 1 prompts with one response: 11",
        " row 11: nothing to compare its response with",
    ]


def test_a_report_does_not_repeat_a_terminals_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = ("1", "\x9b2J", 2.0)
    path = write(tmp_path / "f.jsonl", [{**FLAT[0], "reward": reward} for reward in rewards])
    assert main(["data", "check", path]) == 0
    said = capsys.readouterr().out
    assert "rewards that are missing or no number: 0, 1" in said
    assert "\x9b" not in said


def test_a_report_for_programs(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """<user> p0 <assistant> a EoS: five tokens."""
    path = write(tmp_path / "f.jsonl", FLAT)
    flags = ["--json", "--model", str(tiny_model_dir), "--max_len", "4"]
    assert main(["data", "check", path, *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["unit"], report["num_rows"], report["truncated"]) == ("tokens", 10, 1.0)
    assert report["responses_per_prompt"] == {"2": 5}
    assert [(x["kind"], x["count"], x["rows"]) for x in report["findings"]] == [
        ("responses cut at the limit", 10, [0, 1, 2, 3, 4])
    ]


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        ([{"text": "a"}], [], "no known layout of feedback (columns: text)"),
        (FLAT, ["--layout", "nemo"], "layout nemo needs the column chosen_response"),
        (FLAT, ["--max_len", "0"], "argument --max_len: '0': must be a whole number from 1 on"),
        ([{**FLAT[0], "response": ""}], [], "no usable response in 1 rows"),
    ],
)
def test_what_cannot_be_checked(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, Any]],
    flags: list[str],
    said: str,
) -> None:
    path = write(tmp_path / "f.jsonl", rows)
    assert said in refused(["check", path, *flags], capsys)


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "data: the following arguments are required: check|convert" in refused([], capsys)
    assert "no such file" in refused(["check", "gone.jsonl"], capsys)
