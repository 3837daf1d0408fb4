"""R6: malformed inputs of every kind, each given to the command that reads it.

A try holds if the command ends with one line that names the place, and the field where there is
one. `rto data check`, which reads on, may count the row instead.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.logging import disable_progress_bar

from rto.cli.main import main
from rto.jobs.submit import main as submit
from run_folders import write_run

GOAL = pytest.mark.goal("R6", "a malformed input, given to the command that reads it")
BAD_ROW = 5
ROWS: dict[str, dict[str, Any]] = {
    "sft": {"prompt": "w1 w2", "response": "w3"},
    "dpo": {"prompt": "w1 w2", "chosen": "w3", "rejected": "w4"},
    "fit": {"prompt": "w1 w2", "response": "w3", "reward": 1.0},
    "train": {"prompt": "w1 w2"},
    "data": {"prompt": "w1 w2", "response": "w3", "reward": 1.0},
}
"""Command -> a good row."""


@dataclass(frozen=True)
class Case:
    """``content`` is a file's, or of the line among good ones that is wrong."""

    name: str
    content: bytes
    field: str = ""
    """What the message names beside the file."""


def texts(field: str) -> Iterator[tuple[str, object]]:
    """What stands in the place of a text."""
    yield from [
        ("null", None), ("number", 5), ("float", 1.5), ("bool", True), ("empty", ""),
        ("blank", " \t "), ("list", ["a"]), ("object", {"a": "b"}), ("empty list", []),
        ("empty object", {}), ("nested", [[["a"]]]), ("huge number", 2**80),
    ]  # fmt: skip


def numbers() -> Iterator[tuple[str, str]]:
    """What stands in the place of a reward, as JSON."""
    yield from [
        ("null", "null"), ("text", '"1.0"'), ("comma", '"1,0"'), ("NaN", "NaN"),
        ("inf", "Infinity"), ("-inf", "-Infinity"), ("1e999", "1e999"), ("1e39", "1e39"),
        ("-1e39", "-1e39"),
        ("true", "true"), ("list", "[1.0]"), ("object", '{"a": 1}'), ("empty", '""'),
        ("digits", "9" * 5000), ("2**200", str(2**200)),
    ]  # fmt: skip


def lines(row: dict[str, Any]) -> Iterator[Case]:
    """A line that is no row."""
    good = json.dumps(row).encode()
    first = next(iter(row))
    yield from [
        Case("list", b"[1, 2]"), Case("text", b'"a"'), Case("number", b"5"), Case("null", b"null"),
        Case("NaN alone", b"NaN"), Case("empty object", b"{}"), Case("word", b"hello"),
        Case("cut", good[:-4]), Case("cut in a text", good[: len(good) // 2]),
        Case("two rows", good + good[:-1]), Case("comma behind", good + b","),
        Case("single quotes", good.replace(b'"', b"'")),
        Case("deep", good[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        Case("digits", good[:-1] + b', "x": ' + b"9" * 5000 + b"}"),
        Case("key twice", good[:-1] + b', "' + first.encode() + b'": "w9"}', first),
        Case("0xff", good.replace(b"w1", b"\xff")), Case("0xff in front", b"\xff" + good),
        Case("overlong", good.replace(b"w1", b"\xc0\xaf")),
        Case("cut sequence", good.replace(b"w1", b"\xe2\x82")),
        Case("surrogate bytes", good.replace(b"w1", b"\xed\xa0\x80")),
        Case("NUL bytes", b"\0" * 40), Case("UTF-16", good.decode().encode("utf-16")),
        Case("surrogate", good.replace(b"w1", b"\\ud800"), first),
        Case("control characters", good.replace(b"w1 w2", b"a\x01b")),
        Case("comment", b"# a row"), Case("CSV", b"w1,w2"),
    ]  # fmt: skip


def rows(row: dict[str, Any]) -> Iterator[Case]:
    """A row with a wrong field."""
    for field in row:
        others = {name: value for name, value in row.items() if name != field}
        yield Case(f"no {field}", json.dumps(others).encode(), field if others else "")
        if field == "reward":
            for name, text in numbers():
                line = json.dumps(others)[:-1] + f', "reward": {text}' + "}"
                # Python reads no number of so many digits, whichever field it is in.
                yield Case(f"reward {name}", line.encode(), "" if name == "digits" else field)
        else:
            for name, value in texts(field):
                yield Case(f"{field} {name}", json.dumps({**row, field: value}).encode(), field)


def files(row: dict[str, Any]) -> Iterator[Case]:
    """A whole file."""
    good = json.dumps(row).encode() + b"\n"
    yield from [
        Case("f.jsonl: empty", b""), Case("f.jsonl: blank lines", b"\n\n \n"),
        Case("f.jsonl: NUL", bytes(100)), Case("f.jsonl: gzipped", gzip.compress(good)),
        Case("f.jsonl: binary", os.urandom(500)), Case("f.jsonl: HTML", b"<html></html>"),
        Case("f.jsonl: pickle", b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94."),
        Case("f.json: cut", b"[" + good), Case("f.json: no list", b"{}"),
        Case("f.json: list of texts", b'["a", "b"]'), Case("f.json: number", b"5"),
        Case("f.json: two lists", b"[]" b"[]"),
        Case("f.csv: header alone", ",".join(row).encode()), Case("f.csv: no header", b"w1,w2\n"),
        Case("f.csv: cells too many", (",".join(row) + "\n" + "w1," * 9).encode()),
        Case("f.csv: column twice", b"prompt,prompt\nw1,w2\n"),
        Case("f.csv: open quote", b'a,b\n"w1,'),
        Case("f.jsonl.gz: not gzipped", good),
        Case("f.jsonl.gz: cut", gzip.compress(good * 99)[:-9]),
        Case("f.jsonl.gz: bad sum", gzip.compress(good)[:-8] + b"\0" * 8),
        Case("f.parquet: text", good), Case("f.parquet: cut", b"PAR1" + b"\0" * 50),
        Case("f.parquet: marks alone", b"PAR1PAR1"), Case("f.txt: other kind", good),
        Case("f.pkl: other kind", good), Case("f.xlsx: other kind", b"PK\x03\x04"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Path], list[str]]:
    """The command that reads a file of its rows."""
    disable_progress_bar()  # As `rto` does, before transformers is imported.
    folder = tmp_path_factory.mktemp("runs")
    function = folder / "reward_func.py"
    function.write_text("def reward_func(q, p, y): return [1.0] * len(q)\n")

    def argv(command: str, path: Path) -> list[str]:
        if command == "data":
            return ["data", "check", str(path)]
        common = ["--actor.model_name_or_path", str(tiny_model_dir), "--dry_run"]
        common += ["--data.max_len", "48", "--train.device", "cpu", "--data.cache_dir", str(folder)]
        match command:
            case "sft":
                own = ["--data.dataset", str(path), "--data.input_key", "prompt"]
                own += ["--data.output_key", "response"]
            case "dpo":
                own = ["--data.dataset", str(path), "--data.prompt_key", "prompt"]
            case "fit":
                own = ["--data.dataset", str(path), "--algo", "rpo"]
            case _:
                own = ["--data.prompt_dataset", str(path), "--data.input_key", "prompt"]
                own += ["--reward.func_path", str(function), "--rollout.batch_size", "4"]
        return [command, *common, *own, "--train.batch_size", "4"]

    return argv


CONFIGS: dict[str, str | bytes] = {
    "unknown section": "trainer:\n  seed: 1\n",
    "unknown key": "train:\n  sead: 1\n",
    "section as list": "train: [1, 2]\n",
    "section as text": "train: seed\n",
    "list": "- train\n",
    "text": "hello\n",
    "number": "5\n",
    "key twice": "train:\n  seed: 1\n  seed: 2\n",
    "section twice": "train:\n  seed: 1\ntrain:\n  max_steps: 1\n",
    "tag": "train: !!python/object/apply:os.system ['true']\n",
    "unknown tag": "train:\n  seed: !secret 5\n",
    "bomb": "a: &a [x, x]\n"
    + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    ),
    "loop": "train: &a\n  seed: *a\n",
    "no such anchor": "train: *nowhere\n",
    "tab": "train:\n\tseed: 1\n",
    "open quote": 'train: {seed: "1\n',
    "two documents": "train: {seed: 1}\n---\ntrain: {seed: 2}\n",
    "UTF-16": "train: {seed: 1}\n".encode("utf-16"),
    "latin-1": "# é\ntrain: {seed: 1}\n".encode("latin-1"),
    "NUL": b"train:\0 {seed: 1}\n",
    "binary": bytes(range(256)),
    "deep": "train: " + "[" * 3000 + "]" * 3000 + "\n",
    "deep map": "train: " + "{a: " * 2000 + "1" + "}" * 2000 + "\n",
    "digits": "train:\n  seed: " + "9" * 5000 + "\n",
    "config in config": "config: other.yaml\n",
    "key of a number": "5: {seed: 1}\n",
    "key of a list": "? [a]\n: 1\n",
    "merge of a text": "train:\n  <<: seed\n",
    "date": "train:\n  seed: 2026-01-01\n",
    "sexagesimal": "train:\n  seed: 1:30\n",
    "secret": "reward:\n  remote_url: ['http://u:hunter2hunter2@h/']\n",
}
"""Content of a YAML file."""

SETTINGS: dict[str, tuple[str, ...]] = {
    "train.seed": ("-1", "1.5", "x", "true", "4294967296", "null", "[]", "nan"),
    "train.batch_size": ("0", "-1", "2.5", "many", "null", "1e3"),
    "train.max_steps": ("0", "-3", "0.5", "inf"),
    "train.max_epochs": ("0", "-1", "nan"),
    "train.ema_beta": ("1", "2", "-0.1", "nan", "x"),
    "train.device": ("gpu", "", "CUDA", "5"),
    "train.async_lag": ("-1", "65", "1.5"),
    "actor.adam.lr": ("nan", "inf", "1e400", "-1", "fast", "null"),
    "actor.adam.betas": ("2,3", "0.9", "[0.9]", "[0.9,0.99,0.999]", "[-1,0.9]", "x"),
    "actor.adam.eps": ("-1", "0", "nan"),
    "actor.max_norm": ("-1", "nan", "x"),
    "actor.model_name_or_path": ("", "/nowhere", "./nowhere", "a b", "a\nb", "../../etc/passwd"),
    "rollout.temperature": ("0", "-1", "nan", "inf", "1000"),
    "rollout.top_p": ("0", "1.5", "-1", "nan"),
    "rollout.n_samples_per_prompt": ("0", "-1", "1.5"),
    "rollout.max_new_tokens": ("0", "-5", "1000000"),
    "data.max_len": ("0", "-1", "1", "x"),
    "data.prompt_dataset": (
        "",
        "/nowhere.jsonl",
        "nowhere.jsonl",
        "/dev/null",
        "/etc",
        "/proc/1/mem",
    ),
    "data.prompt_probs": ("-1", "0.5,0.5", "nan", "x"),
    "data.input_key": ("", "nowhere", "a\nb"),
    "data.cache_dir": ("/proc/nowhere", "/dev/null/x"),
    "reward.func_path": ("", "/nowhere.py", "https://h/f.py", "/etc", "a\nb.py"),
    "reward.func_timeout": ("0", "-1", "nan", "inf", "1e9"),
    "reward.func_memory_gib": ("0", "-1", "nan", "65537"),
    "reward.remote_url": ("ftp://h/", "h:80", "http://", "http://u:p@h/", "http://h:99999/"),
    "reward.remote_timeout": ("0", "-1", "nan"),
    "reward.remote_batch_size": ("0", "-1", "1.5"),
    "reward.remote_concurrency": ("0", "-1", "1025", "x"),
    "reward.on_failure": ("", "skip", "Stop", "zero"),
    "reward.weights": ("nan", "inf", "1,2,3", "x"),
    "ds.zero_stage": ("4", "-1", "x"),
    "ds.param_dtype": ("fp8", "", "32"),
    "ds.timeout": ("0", "-1", "nan"),
    "vllm.num_engines": ("0", "-1", "1.5"),
    "vllm.gpu_memory_utilization": ("0", "1.5", "-1", "nan"),
    "ckpt.output_dir": (
        "/dev/null",
        "/dev/null/x",
        "x" * 300,
        "http://h/x",
    ),
    "ckpt.save_steps": ("0", "-2", "1.5"),
    "ckpt.max_num": ("0", "-1", "x"),
    "logger.logging_steps": ("0", "-1", "nan"),
    "algo.name": ("pppo", "", "5"),
    "algo.kl.init_coef": ("-1", "nan", "inf", "x"),
    "nowhere.at_all": ("1",),
    "train.sead": ("1",),
}
"""Flag -> values that it must not take."""


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code, or what it raised, and what it said."""

    code: object
    out: str
    err: str

    def refuses(self, *named: str, program: str = "rto") -> bool:
        """In one line that names all of these."""
        lines = self.err.splitlines()
        is_line = len(lines) == 1 and lines[0].startswith(f"{program}: ") and len(lines[0]) < 2000
        return is_line and self.code in (2, 65, 76) and all(name in lines[0] for name in named)

    def counts(self, field: str) -> bool:
        """As a finding of `rto data check`, which names row and field."""
        found = rf"error +1  [^\n]*\n +row {BAD_ROW}: '{field}'"
        return self.code == 0 and bool(field) and re.search(found, self.out) is not None


def ending(
    argv: Sequence[str],
    capsys: pytest.CaptureFixture[str],
    program: Callable[[Sequence[str]], int] = main,
) -> End:
    capsys.readouterr()
    try:
        code: object = program(argv)
    except BaseException as error:  # noqa: BLE001
        code = f"{type(error).__name__}: {error}"
    said = capsys.readouterr()
    return End(code, said.out, said.err)


def tried(
    cases: Sequence[Case],
    argv: Callable[[Path], list[str]],
    path: Callable[[Case], Path],
    capsys: pytest.CaptureFixture[str],
    tally: Any,
) -> str:
    """What did not hold."""
    wrong: list[str] = []
    for case in cases:
        file = path(case)
        file.write_bytes(case.content)
        end = ending(argv(file), capsys)
        if not tally.count(end.refuses(file.name, case.field) or end.counts(case.field)):
            wrong.append(f"{case.name} [{case.field}]: {end.code} {end.err[-600:]}")
    return "\n".join(wrong)


@pytest.mark.faults
@GOAL
@pytest.mark.parametrize("kind", [lines, rows])
@pytest.mark.parametrize("command", ROWS)
def test_inputs_rows(
    command: str,
    kind: Callable[[dict[str, Any]], Iterator[Case]],
    run: Callable[[str, Path], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tally: Any,
) -> None:
    good = [json.dumps({**ROWS[command], "prompt": f"w1 w{i}"}).encode() for i in range(8)]
    cases = [
        Case(
            case.name,
            b"\n".join([*good[:BAD_ROW], case.content, *good[BAD_ROW:]]) + b"\n",
            case.field,
        )
        for case in kind(ROWS[command])
    ]
    place = tmp_path / "rows.jsonl"
    assert tried(cases, lambda file: run(command, file), lambda _: place, capsys, tally) == ""


@pytest.mark.faults
@GOAL
@pytest.mark.parametrize("command", ["sft", "train", "data"])
def test_inputs_files(
    command: str,
    run: Callable[[str, Path], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tally: Any,
) -> None:
    def place(case: Case) -> Path:
        return tmp_path / case.name.partition(":")[0]

    cases = list(files(ROWS[command]))
    assert tried(cases, lambda file: run(command, file), place, capsys, tally) == ""


@pytest.mark.faults
@GOAL
def test_inputs_configs(
    run: Callable[[str, Path], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tally: Any,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"w{i}"}) + "\n" for i in range(8)))
    cases = [
        Case(name, content if isinstance(content, bytes) else content.encode())
        for name, content in CONFIGS.items()
    ]
    place = tmp_path / "config.yaml"

    def argv(file: Path) -> list[str]:
        return [*run("train", rows), "--config", str(file)]

    assert tried(cases, argv, lambda _: place, capsys, tally) == ""


@pytest.mark.faults
@GOAL
@pytest.mark.parametrize("name", SETTINGS)
def test_inputs_settings(
    name: str,
    run: Callable[[str, Path], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tally: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"w{i}"}) + "\n" for i in range(8)))
    wrong: list[str] = []
    for value in SETTINGS[name]:
        end = ending([*run("train", rows), f"--{name}", value], capsys)
        shown = " ".join(value.split())
        named = end.refuses(name.rpartition(".")[2]) or (len(shown) > 2 and end.refuses(shown))
        if not tally.count(named):
            wrong.append(f"{value!r:.60}: {end.code} {end.err[-300:]}")
    assert "\n".join(wrong) == ""


MODEL_FILES: dict[str, tuple[bytes, ...]] = {
    "config.json": (
        b"", b"{", b"[]", b"5", b"null", b"{}", b'{"model_type": "nowhere"}', b"\xff\xfe\x00",
        b"[" * 100_000, b'{"model_type": "llama", "hidden_size": "x"}', b'{"model_type": 5}',
    ),
    "tokenizer.json": (b"", b"{", b"[]", b"5", b"null", b"{}", b"\xff\xfe\x00", b"[" * 100_000),
    "tokenizer_config.json": (b"{", b"[]", b"5", b"\xff\xfe\x00"),
}  # fmt: skip
"""File of a model -> what it must not hold."""


@pytest.mark.faults
@GOAL
@pytest.mark.parametrize("name", MODEL_FILES)
def test_inputs_models(
    name: str,
    run: Callable[[str, Path], list[str]],
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tally: Any,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"w{i}"}) + "\n" for i in range(8)))
    model = tmp_path / "model_that_is_damaged"
    shutil.copytree(tiny_model_dir, model)
    cases = [Case(f"{name} {content[:40]!r}", content) for content in MODEL_FILES[name]]
    argv = [*run("train", rows), "--actor.model_name_or_path", str(model)]
    wrong: list[str] = []
    for case in cases:
        (model / name).write_bytes(case.content)
        end = ending(argv, capsys)
        if not tally.count(end.refuses(model.name)):
            wrong.append(f"{case.name}: {end.code} {end.err[-300:]}")
    assert "\n".join(wrong) == ""


JOBS: dict[str, str | bytes] = {
    **{name: content for name, content in CONFIGS.items() if name != "secret"},
    "no command": "runtime_env: {}\n",
    "empty command": "entrypoint: ''\n",
    "open quote in it": 'entrypoint: "rto train \'x"\n',
    "a list": "entrypoint: [rto, train]\n",
    "environment as list": "entrypoint: rto methods\nruntime_env: {env_vars: [A, B]}\n",
    "environment of numbers": "entrypoint: rto methods\nruntime_env: {env_vars: {5: x}}\n",
    "no such folder": "entrypoint: rto methods\nruntime_env: {working_dir: /nowhere}\n",
    "cpus below zero": "entrypoint: rto methods\nentrypoint_num_cpus: -3\n",
    "cpus not a number": "entrypoint: rto methods\nentrypoint_num_cpus: .nan\n",
    "secret": "entrypoint: rto methods\nruntime_env: {env_vars: {DB_PASS: hunter2hunter2}}\n",
}
"""Content of a job file."""


@pytest.mark.faults
@GOAL
@pytest.mark.parametrize("name", JOBS)
def test_inputs_jobs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tally: Any
) -> None:
    content, job = JOBS[name], tmp_path / "job.yaml"
    job.write_bytes(content if isinstance(content, bytes) else content.encode())
    end = ending([str(job), "--dry_run"], capsys, submit)
    assert tally.count(end.refuses("job.yaml", program="submit")), f"{end.code} {end.err[-400:]}"


RUN_FILES = ("run.json", "config.yaml", "versions.json", "metrics.jsonl")
DAMAGES: dict[str, bytes] = {
    "empty": b"",
    "NUL": bytes(64),
    "list": b"[1, 2]\n",
    "text": b'"a"\n',
    "number": b"5\n",
    "cut": b'{"a": ',
    "not UTF-8": b'{"a": "\xff"}\n',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "deep": b"[" * 100_000,
    "digits": b'{"iteration": ' + b"9" * 5000 + b"}\n",
    "bomb": CONFIGS["bomb"].encode(),  # pyright: ignore[reportAttributeAccessIssue]
}


@pytest.mark.faults
@GOAL
@pytest.mark.parametrize("name", RUN_FILES)
def test_inputs_run_folders(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tally: Any
) -> None:
    """A run folder with a part that cannot be read has a page all the same, which says so."""
    wrong: list[str] = []
    for number, (damage, content) in enumerate(DAMAGES.items()):
        if name == "metrics.jsonl" and damage == "empty":
            continue  # A run that has only begun.
        run = write_run(tmp_path / f"run{number}")
        (run / name).write_bytes(content)
        page = tmp_path / f"{number}.html"
        end = ending(["report", str(run), "--output", str(page)], capsys)
        told = end.code == 0 and name in page.read_text(encoding="utf-8")
        if not tally.count(told or end.refuses(run.name)):
            wrong.append(f"{damage}: {end.code} {end.err[-300:]}")
    assert "\n".join(wrong) == ""
