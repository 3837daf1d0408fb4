"""`rto eval`: its flags, and whole evaluations of stored outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import serving

from rto.cli.eval import main
from rto.cli.eval_flags import parse
from rto.errors import UserError
from rto.evaluation.plan import AnswerSource, JudgeSpec
from rto.evaluation.run import described
from rto.sections.runtime import Decoding

BASE = ["--model", "runs/x/last", "--prompts", "p.jsonl"]
KEY = "sk-local-1"


def test_the_defaults_and_names() -> None:
    options = parse([*BASE, "--baseline", "org/base"])
    assert options.model == AnswerSource("x", "runs/x/last", is_outputs=False)
    assert options.baseline == AnswerSource("base", "org/base", is_outputs=False)
    assert options.decoding == Decoding(temperature=0.7, top_p=1.0, max_new_tokens=1024)
    assert options.metrics is None
    assert not options.dry_run


def test_the_papers_decoding() -> None:
    """The RPO authors' evaluation: temperature 0.7, top_k 50, top_p 0.95, penalty 1.2, no 3-gram
    twice."""
    flags = ["--top_k", "50", "--top_p", "0.95", "--repetition_penalty", "1.2"]
    flags += ["--no_repeat_ngram_size", "3"]
    options = parse([*BASE, *flags, "--stop", "a, b", "--stop", "\n\n", "--min_p", "0.1"])
    assert options.decoding == Decoding(
        temperature=0.7, top_p=0.95, top_k=50, min_p=0.1, repetition_penalty=1.2,
        no_repeat_ngram_size=3, max_new_tokens=1024, stop=["a, b", "\n\n"],
    )  # fmt: skip
    assert described(options.decoding) == (
        "temperature 0.7, top_p 0.95, top_k 50, min_p 0.1, repetition_penalty 1.2, "
        "no_repeat_ngram_size 3, max_new_tokens 1024, stop ['a, b', '\\n\\n']"
    )
    assert described(Decoding()) == "temperature 0.7, top_p 1, max_new_tokens 1024"


def test_what_an_engine_does_not_have_is_refused_before_it_starts(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "w1"}\n')
    flags = ["--model", str(tiny_model_dir), "--prompts", str(tmp_path / "p.jsonl")]
    flags += ["--no_repeat_ngram_size", "3", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="no_repeat_ngram_size is 3: vLLM has no such setting"):
        main(flags)
    assert not (tmp_path / "out").exists()


def test_an_encoder_decoder_is_planned(
    tiny_t5_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "w1"}\n')
    flags = ["--model", str(tiny_t5_dir), "--name", "t5", "--prompts", str(tmp_path / "p.jsonl")]
    assert main([*flags, "--no_repeat_ngram_size", "3", "--seed", "7", "--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "rto eval: t5",
        "1 prompts, 1 turns, 0 with a reference",
        "t5: sampled by transformers, temperature 0.7, top_p 1, no_repeat_ngram_size 3, "
        "max_new_tokens 1024, seed 7",
    ]


def test_flags_of_a_run_are_taken() -> None:
    options = parse([*BASE, "--train.seed", "7", "--ds.param_dtype", "fp32", "--dry_run"])
    assert options.config.train.seed == 7
    assert options.config.ds.param_dtype == "fp32"
    assert options.dry_run


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/model_outputs.json", "b"),
        ("model_outputs.json", "model_outputs"),
        ("a/gpt4.json", "gpt4"),
        ("a/claude.jsonl", "claude"),
    ],
)
def test_outputs_are_called_after_their_file(path: str, name: str) -> None:
    options = parse(["--outputs", path, "--prompts", "p.jsonl"])
    assert options.model == AnswerSource(name, str(Path(path).absolute()), is_outputs=True)


def test_paths_are_absolute_before_they_cross_to_an_actor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of the hub stay; what an endpoint calls its model is no path, though one is there."""
    monkeypatch.chdir(tmp_path)
    for name in ("m", "b", "r", "rm", "j", "bert", "tox"):
        (tmp_path / name).mkdir()
    (tmp_path / "p.jsonl").write_text("")
    flags = ["--model", "m", "--baseline_outputs", "gone.json", "--prompts", "p.jsonl"]
    flags += ["--reference", "./r", "--reward_model", "rm", "--reward_model", "org/rm"]
    flags += ["--judge", "reward:j", "--judge", "vllm:org/j", "--judge", "openai:m"]
    flags += ["--bertscore_model", "bert", "--toxicity_model", "tox", "--output_dir", "out"]
    options = parse(flags)
    here = str(tmp_path)
    assert options.model == AnswerSource("m", f"{here}/m", is_outputs=False)
    assert options.baseline == AnswerSource("gone", f"{here}/gone.json", is_outputs=True)
    assert (options.prompts, options.reference) == (f"{here}/p.jsonl", f"{here}/r")
    assert options.reward_models == [f"{here}/rm", "org/rm"]
    assert list(map(str, options.judges)) == [f"reward:{here}/j", "vllm:org/j", "openai:m"]
    models = options.metric_models
    assert (models.bertscore, models.toxicity) == (f"{here}/bert", f"{here}/tox")
    assert options.output_dir == f"{here}/out"
    assert parse([*BASE, "--baseline", "org/base"]).metric_models.bertscore == "roberta-large"


def test_judges() -> None:
    judges = ["--judge", "reward:rm/dir", "--judge", "openai:org:model"]
    options = parse([*BASE, "--baseline", "y", *judges, "--judge_prices", "0.5,2"])
    assert options.judges == [JudgeSpec("reward", "rm/dir"), JudgeSpec("openai", "org:model")]
    assert options.judge_prices == (0.5, 2.0)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no model: give --model"),
        (["--model", "m"], "no prompts: give --prompts"),
        ([*BASE, "--outputs", "f"], "--model and --outputs: give one of them"),
        ([*BASE, "--promts", "x"], "unknown flag --promts: did you mean --prompts?"),
        ([*BASE, "--train.sead", "1"], "unknown flag --train.sead: did you mean --train.seed?"),
        ([*BASE, "--judge", "reward:rm"], "--judge compares with a baseline"),
        ([*BASE, "--baseline", "b", "--judge", "gpt"], "--judge gpt: write reward:DIR"),
        ([*BASE, "--baseline", "runs/x/best"], "model and baseline are both called x"),
        ([*BASE, "--metrics", "rouge"], "--metrics rouge: no such metric: did you mean rougeL?"),
        ([*BASE, "--temperature", "-1"], "--temperature is -1.0: must be 0, or at least 0.01"),
        ([*BASE, "--temperature", "0", "--reference", "r"], "greedy decoding has no KL"),
        ([*BASE, "--top_p", "0"], "--top_p is 0.0: must be above 0 and at most 1"),
        ([*BASE, "--temperature", "0", "--top_k", "5"], "--top_k is 5 and --temperature 0"),
        ([*BASE, "--stop", "x", "--stop", ""], "--stop is ['x', '']: must be a list of texts"),
        ([*BASE, "--judge_key_env", "sk-1234"], "--judge_key_env names the environment variable"),
        ([*BASE, "--max_prompts", "0"], "argument --max_prompts: 0: must be 1 or more"),
        ([*BASE, "--judge_options", "x"], "--judge_options x: not JSON"),
        ([*BASE, "--judge_options", "[]"], "--judge_options []: give an object"),
        ([*BASE, "--judge_prices", "1,-1"], "--judge_prices 1,-1: 0 or more"),
        ([*BASE, "--judge_prices", "1,nan"], "--judge_prices 1,nan: 0 or more"),
        ([*BASE, "--judge_timeout", "inf"], "inf: must be above 0 and at most 1e7"),
        ([*BASE, "--name", ".."], "--model is called '..', which can be no folder's name"),
        ([*BASE, "--judge_prices", "1"], "--judge_prices 1: write IN,OUT"),
        (
            ["--outputs", "f", "--prompts", "p", "--reference", "r"],
            "the KL needs the sampler's log-probs",
        ),
    ],
)
def test_a_wrong_flag_is_one_line(argv: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def judge(body: Any) -> str:
    """Prefers the answer that says "good", wherever it stands; says nothing of "odd" requests."""
    asked = body["messages"][-1]["content"]
    first = asked.index("good") < asked.index("poor")
    text = "I cannot say." if "odd" in asked else "[[A]]" if first else "[[B]]"
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"message": message}], "usage": {"prompt_tokens": 1000}})


@pytest.fixture
def url() -> Iterator[str]:
    with serving(judge, path="/v1", token=KEY) as server:
        yield server.url


@pytest.fixture
def stored(tmp_path: Path) -> list[str]:
    """Three prompts, and the outputs of two policies to them."""
    asked = ["ask one", "ask two", "an odd one"]
    rows = [{"instruction": prompt, "output": "a good answer"} for prompt in asked]
    (tmp_path / "prompts.json").write_text(json.dumps(rows))
    for name, says in (("us", "good"), ("them", "poor")):
        outputs = [{"instruction": prompt, "output": f"a {says} answer"} for prompt in asked]
        (tmp_path / f"{name}.json").write_text(json.dumps(outputs))
    return [
        *("--outputs", str(tmp_path / "us.json"), "--prompts", str(tmp_path / "prompts.json")),
        *("--baseline_outputs", str(tmp_path / "them.json"), "--metrics", "rougeL,distinct_1"),
    ]


def test_stored_outputs_before_an_endpoint(
    tmp_path: Path,
    stored: list[str],
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    out = tmp_path / "out"
    flags = ["--judge", "openai:j", "--judge_url", url, "--judge_key_env", "MY_KEY"]
    flags += ["--judge_prices", "2,4", "--output_dir", str(out)]
    flags += ["--judge_options", '{"extra": {"api_key": "hunter2"}, "n": 1}']
    assert main([*stored, *flags]) == 0
    printed = capsys.readouterr().out
    assert "openai:j: 6 of 6 judgements, 6,000 tokens read, 0 written, cost 0.0120" in printed
    assert "100.0% [100.0%, 100.0%]" in printed

    text = (out / "eval.json").read_text()
    assert KEY not in text
    assert "hunter2" not in text
    result = json.loads(text)
    assert '{"extra": {"api_key": "***"}, "n": 1}' in result["command"]
    won = result["win_rates"]["openai:j"]
    assert won["win_rate"] == {"mean": 1.0, "ci95": [1.0, 1.0]}
    assert (won["num_prompts"], won["num_left_out"], won["num_unparsed"]) == (3, 1, 2)
    us, them = (result["figures"][name]["metrics"] for name in ("us", "them"))
    # 2 of 3 words in common.
    assert (us["rougeL"]["value"], them["rougeL"]["value"]) == (1.0, pytest.approx(2 / 3))
    assert us["distinct_1"] == {"value": 3 / 9, "num": 3, "ci95": None, "source": ""}
    assert result["decoding"] is None

    assert main([*stored, *flags]) == 0
    assert "(6 from an earlier run), 0 tokens read" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["us.json", "us.json/x", "x" * 300])
def test_a_folder_that_cannot_be(tmp_path: Path, stored: list[str], name: str) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="^--output_dir "):
        main([*stored, "--output_dir", str(tmp_path / name)])
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_files_are_one_line(tmp_path: Path, stored: list[str], url: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    kept = out / "judge_answers.jsonl"
    kept.write_text('{"asked": 1}\n')
    flags = ["--judge", "openai:j", "--judge_url", url, "--output_dir", str(out)]
    with pytest.raises(UserError, match=r"judge_answers\.jsonl: damaged: KeyError.*; remove it"):
        main([*stored, *flags])
    (tmp_path / "us.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"us\.json: neither a JSON list nor JSON lines: Recursion"):
        main([*stored, *flags])


def test_a_dry_run_starts_and_writes_nothing(
    tmp_path: Path, stored: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*stored, "--output_dir", str(out), "--dry_run"]) == 0
    assert "3 prompts, 3 turns, 3 with a reference" in capsys.readouterr().out
    assert not out.exists()


def test_what_cannot_be_had_is_said_unless_it_was_asked_for(
    tmp_path: Path,
    stored: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    needs = "METEOR needs NLTK's data"
    flags = [*stored[:-2], "--bertscore_model", str(tmp_path), "--output_dir", str(tmp_path / "o")]
    assert main(flags) == 0
    assert needs in capsys.readouterr().out
    result = json.loads((tmp_path / "o" / "eval.json").read_text())
    figures = result["figures"]["us"]
    assert figures["missing"].keys() == {"bertscore_f1", "meteor"}
    assert not {"bertscore_f1", "meteor"} & figures["metrics"].keys()
    with pytest.raises(UserError, match=needs):
        main([*flags, "--metrics", "meteor"])
