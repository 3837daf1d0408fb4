"""What `rto generate` checks before an engine starts, and how it prints."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rto.cli.generate import main, show
from rto.cli.new_file import new_file
from rto.errors import UserError
from rto.evaluation.formats import read_answers
from rto.evaluation.generate import prepare, questions_of
from rto.evaluation.questions import Question
from rto.rollout.requests import Sample
from rto.sections.parse import parse_run
from rto.sections.run_config import RunConfig
from rto.types import logprob_array, token_array


def config(*argv: str) -> RunConfig:
    return parse_run("generate", argv).config


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--prompt", "hello"], "no model: give --model"),
        (["--model", "org/model"], "no prompt: give --prompt"),
        (
            ["--model", "org/model", "--prompt", "x", "--prompts", "f.jsonl"],
            "generate.prompt and generate.prompts are both given: give one",
        ),
        (
            ["--model", "m/m", "--prompt", "x", "--generate.prompt_key", "k"],
            "generate.prompt_key names a column of generate.prompts, which is not given",
        ),
        (
            ["--model", "m/m", "--prompt", "x", "--generate.temperature", "0"]
            + ["--generate.num_samples", "2"],
            "generate.num_samples is 2 and generate.temperature 0: greedy decoding gives the same",
        ),
        (["--model", "m" * 300 + "/x", "--prompt", "x"], "File name too lon"),
        (["--model", "/no/where", "--prompt", "hello"], "/no/where: no such folder"),
        (["--model", "org/model", "--promt", "x"], "unknown flag --promt: did you mean --prompt?"),
    ],
)
def test_a_wrong_argument_is_an_error(argv: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        main(argv)
    assert said in str(caught.value)


def test_the_chat_template_is_applied_where_there_is_one(tiny_model_dir: Path) -> None:
    questions = prepare(str(tiny_model_dir), config("--prompt", "w1 w2", "--prompt", "w3"))
    assert questions.chat_template
    assert questions.texts == ["<user> w1 w2\n<assistant>", "<user> w3\n<assistant>"]
    assert questions.token_ids == [(4, 7, 8, 5), (4, 9, 5)]


def test_a_tokenizer_without_one_reads_the_prompt_itself(tiny_model_dir: Path) -> None:
    plain = tiny_model_dir.with_name("plain")
    plain.mkdir()
    for file in tiny_model_dir.iterdir():
        if file.name != "chat_template.jinja":
            (plain / file.name).write_bytes(file.read_bytes())
    questions = prepare(str(plain), config("--prompt", "w1", "--data.input_template", "w2 {} w2"))
    assert not questions.chat_template
    assert questions.texts == ["w2 w1 w2"]


def test_the_length_is_capped_by_the_context(tiny_model_dir: Path) -> None:
    few = config("--prompt", "w1", "--generate.max_new_tokens", "10")
    assert prepare(str(tiny_model_dir), few).max_len == 3 + 10
    assert prepare(str(tiny_model_dir), config("--prompt", "w1")).max_len == 256


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (" ".join(["w1"] * 254), "--prompt: 256 tokens fill the context of .*, which is 256"),
        ("", "--prompt: row 0: 'prompt' is empty"),
    ],
)
def test_a_prompt_must_be_answerable(tiny_model_dir: Path, prompt: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        prepare(str(tiny_model_dir), config("--prompt", prompt))


def test_an_encoder_reads_a_closed_prompt_and_a_decoder_an_open_one(
    tiny_t5_dir: Path, tiny_model_dir: Path
) -> None:
    asked = prepare(str(tiny_t5_dir), config("--prompt", "w1 w2"))
    assert asked.engine == "transformers"
    assert not asked.chat_template
    assert asked.token_ids == [(4, 5, 1)]
    assert prepare(str(tiny_model_dir), config("--prompt", "w1 w2")).engine == "vllm"


def test_transformers_answers_for_a_decoder_only_model_too(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where vLLM is not installed: find_spec sees a None in sys.modules as no module."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    asked = ["--model", str(tiny_model_dir), "--prompt", "w1 w2", "--generate.max_new_tokens", "4"]
    answers: list[str] = []
    for _ in range(2):
        assert main([*asked, "--seed", "1", "--generate.no_repeat_ngram_size", "2"]) == 0
        answers.append(capsys.readouterr().out.split("chat template applied\n")[1])
    assert answers[0] == answers[1]
    assert "w" in answers[0]
    with pytest.raises(UserError, match="vllm.engine vllm needs vLLM, which is not installed"):
        main([*asked, "--vllm.engine", "vllm"])


def test_an_encoder_decoder_answers(tiny_t5_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(tiny_t5_dir), "--prompt", "w1 w2", "--generate.max_new_tokens", "5"]
    assert main([*flags, "--generate.num_samples", "2", "--ds.param_dtype", "fp32"]) == 0
    first = capsys.readouterr().out
    assert "response 2 of 2" in first
    assert main([*flags, "--generate.num_samples", "2", "--ds.param_dtype", "fp32"]) == 0
    assert capsys.readouterr().out == first


def test_a_file_of_prompts_becomes_a_file_of_responses(
    tiny_t5_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["w1 w2", "w3", "w1 w2", "w4 w5 w6"]
    rows = "".join(json.dumps({"id": i, "ask": x}) + "\n" for i, x in enumerate(asked))
    (tmp_path / "p.jsonl").write_text(rows)
    flags = ["--model", str(tiny_t5_dir), "--prompts", str(tmp_path / "p.jsonl")]
    flags += ["--generate.prompt_key", "ask", "--generate.num_samples", "2", "--seed", "5"]
    flags += ["--generate.max_new_tokens", "5", "--ds.param_dtype", "fp32"]
    out = tmp_path / "new" / "out.jsonl"
    assert main([*flags, "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"rto generate: {tiny_t5_dir}",
        "3 prompts, chat template none",
        f"6 responses in {out}",
    ]
    found = [json.loads(line) for line in out.read_text().splitlines()]
    # A prompt that occurs twice is asked once; its id is its first row.
    assert [(row["id"], row["prompt"], row["sample"]) for row in found] == [
        (row, asked[row], k) for row in (0, 1, 3) for k in (0, 1)
    ]
    assert len({row["response"] for row in found}) > 3

    before = out.read_text()
    with pytest.raises(UserError, match=r"--out .*out\.jsonl: exists; give another name"):
        main([*flags, "--out", str(out)])
    assert out.read_text() == before
    again = tmp_path / "again.jsonl"
    assert main([*flags, "--out", str(again), "--vllm.cpu_kvcache_gib", "2"]) == 0
    assert again.read_text() == before
    # Another seed, other responses; the first question's alone are what they were among others.
    (tmp_path / "p.jsonl").write_text(rows.splitlines()[0] + "\n")
    for seed, same in (("5", True), ("6", False)):
        path = tmp_path / f"{seed}.jsonl"
        assert main([*flags, "--seed", seed, "--out", str(path)]) == 0
        assert (path.read_text().splitlines() == before.splitlines()[:2]) == same

    kept = [question_of(row) for row in found[::2]]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, found[::2])))
    answers = read_answers(str(tmp_path / "one.jsonl"), kept, name="x")
    assert answers.turns == [(row["response"],) for row in found[::2]]
    assert list(answers.finished) == [row["finished"] for row in found[::2]]


def question_of(row: dict[str, Any]) -> Question:
    return Question(row["id"], (row["prompt"],))


def test_a_dry_run_leaves_no_file(tiny_t5_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    flags = ["--model", str(tiny_t5_dir), "--prompt", "w1", "--out", str(out)]
    assert main([*flags, "--dry_run"]) == 0
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file/out", "is no folder that can be written to"),
        ("x" * 300, "File name too long"),
        (".", "exists; give another name, or remove it"),
    ],
)
def test_a_file_that_cannot_be_made(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="^--out ") as caught:
        new_file("--out", str(tmp_path / name))
    assert said in str(caught.value)


def test_questions_of_several_turns_are_left_to_eval(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"turns": ["a", "b"], "question_id": 81}\n')
    with pytest.raises(UserError, match="question 81 has 2 turns: `rto eval` asks them"):
        questions_of(config("--prompts", str(tmp_path / "q.jsonl")))


def test_what_vllm_does_not_have_is_refused(tiny_model_dir: Path) -> None:
    asked = config("--prompt", "w1", "--generate.no_repeat_ngram_size", "3")
    with pytest.raises(UserError, match="no_repeat_ngram_size is 3: vLLM has no such setting"):
        prepare(str(tiny_model_dir), asked)


def test_texts_to_stop_at_are_taken_as_they_stand() -> None:
    given = config("--prompt", "a, b", "--generate.stop", "x, y", "--generate.stop", "\n\n[1]")
    assert given.generate.stop == ["x, y", "\n\n[1]"]
    assert given.generate.prompt == ["a, b"]


def test_responses_stand_under_their_prompts_and_cannot_drive_the_terminal() -> None:
    def sample(text: str, *, finished: bool = True) -> Sample:
        return Sample(token_array((1, 2, 3)), logprob_array((0.0, 0.0, 0.0)), text, finished)

    out = io.StringIO()
    wide = "one " * 20 + "line"
    samples = [sample(wide), sample("[bold]two\x1b[2J", finished=False), sample("3"), sample("4")]
    show(Console(file=out, width=40), ["first prompt", "second"], samples, 2)
    assert out.getvalue().split("\n") == [
        "",
        "prompt 1",
        "first prompt",
        "",
        "response 1 of 2",
        wide,
        "",
        "response 2 of 2, cut at 3 tokens",
        "[bold]two\\x1b[2J",
        "",
        "prompt 2",
        "second",
        "",
        "response 1 of 2",
        "3",
        "",
        "response 2 of 2",
        "4",
        "",
    ]
