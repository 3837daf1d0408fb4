"""The page as text: what is in it, what is escaped, and how large it gets."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rto.cli.main import main
from rto.report.collect import read_runs
from rto.report.page import render
from rto.tracking import rollout_read
from run_folders import HOSTILE, rollout, write_iteration, write_run


class Outline(HTMLParser):
    """Tags with their attributes, and the text of scripts by their type."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("type")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.setdefault(self._script, data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def payload(self) -> dict[str, Any]:
        return json.loads(self.scripts["application/json"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "rto")


def test_one_run(folder: Path) -> None:
    page = render(read_runs([folder]))
    outline = Outline(page)
    for shown in ("Reinforced Token Optimization", "finished", "2.13.0", "eval/accuracy", "0:12"):
        assert shown in page
    assert "What differs" not in page
    assert 'id="warnings"' not in page
    assert outline.payload["charts"]["reward/mean"] == {
        "range": [1, 3],
        "y_range": [-0.06, 1.06],
        "lines": [{"run": 0, "x": [1, 2, 3], "y": [0, 0.5, 1]}],
    }
    sample = outline.payload["samples"][0]
    assert sample["prompt"] == "prompt 0"
    first, last = sample["answers"][0]["responses"]
    assert (first["iteration"], last["iteration"]) == (1, 3)
    assert (last["pieces"], last["tokens"]["dpo"]) == (["one", " two"], [0.5, 0.5])


def test_runs_side_by_side(folder: Path) -> None:
    other = write_run(folder.parent / "ppo", seed=2)
    page = render(read_runs([folder, other]))
    settings = page[page.index("What differs") : page.index("Not at the default")]
    assert re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', settings) == [
        ("train.seed", "1", "2")
    ]
    payload = Outline(page).payload
    assert [line["run"] for line in payload["charts"]["reward/mean"]["lines"]] == [0, 1]
    assert [answer["run"] for answer in payload["samples"][0]["answers"]] == [0, 1]
    assert page.count('<button type="button" aria-pressed="true"') == 2


def test_the_share_of_the_run_is_offered_where_lengths_differ(folder: Path) -> None:
    """And is the x axis at first, unless a run is still on its way."""
    same, longer = write_run(folder.parent / "a"), write_run(folder.parent / "b", iterations=6)
    assert 'id="share"' not in render(read_runs([folder, same]))
    page = render(read_runs([folder, longer]))
    assert '<input type="checkbox" id="share" checked>' in page
    assert Outline(page).payload["lengths"] == [3, 6]
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "status": "running"}))
    assert '<input type="checkbox" id="share">' in render(read_runs([folder, longer]))


def test_every_head_of_a_table_says_what_it_heads(folder: Path) -> None:
    (folder / "summary.json").write_text(json.dumps({"stages": {"rto": {"kl": 1.0}}}))
    heads = [a for tag, a in Outline(render(read_runs([folder]))).tags if tag == "th"]
    assert {a.get("scope") for a in heads} == {"row", "col"}


def test_a_path_breaks_behind_slashes_and_is_no_markup(tmp_path: Path) -> None:
    page = render(read_runs([write_run(tmp_path / "<b>" / "a")]))
    assert "/<wbr>&lt;b&gt;/<wbr>a</code>" in page


def test_nothing_of_a_run_becomes_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "rto", iterations=1)
    plain = Outline(render(read_runs([folder])))
    write_iteration(folder, 0, [rollout(0, HOSTILE, HOSTILE, 1.0, ids=(3, 4)) for _ in range(2)])
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "title": HOSTILE}))
    (folder / "config.yaml").write_text(json.dumps({HOSTILE: HOSTILE, "algo": {"name": "rto"}}))
    for tokenizer in (True, False):
        if not tokenizer:
            shutil.rmtree(folder / "last")
        page = render(read_runs([folder]))
        hostile = Outline(page)
        for tag in ("script", "img", "b"):
            assert hostile.count(tag) == plain.count(tag), tag
        sample = hostile.payload["samples"][0]
        shown = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
        assert sample["prompt"] == shown
        (response,) = sample["answers"][0]["responses"]
        if tokenizer:
            assert response["pieces"] == ["</script>", " <b>"]
        else:
            assert response["text"] == shown


def test_only_the_pages_own_script_and_style_are_allowed(folder: Path) -> None:
    page = render(read_runs([folder]))
    outline = Outline(page)
    (policy,) = [a["content"] for _, a in outline.tags if "http-equiv" in a]
    assert policy is not None
    for tag, text in (
        ("script", outline.scripts[None]),
        ("style", page.split("<style>")[1].split("</style>")[0]),
    ):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert re.findall(r"https?:", page) == []
    assert [a for _, a in outline.tags if any(name.startswith("on") for name in a)] == []


def test_a_run_with_next_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("algo:\n  name: ppo\n")
    page = render(read_runs([tmp_path]))
    assert "metrics.jsonl is missing: there are no curves" in page
    for section in ("curves", "time", "samples", "accounting", "evaluation"):
        assert f'id="{section}"' not in page
        assert f"#{section}" not in page
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.jsonl").write_text("")
    assert "config.yaml is missing" in render(read_runs([tmp_path]))


def first_line(folder: Path, **values: object) -> None:
    """Rewrites the first line of metrics."""
    row = {"iteration": 0, "time": 1000.0, "a/b": 1.0, **values}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def rollouts(folder: Path, content: bytes) -> None:
    (folder / "rollouts" / "iter_000000.jsonl.gz").write_bytes(gzip.compress(content))


def tokenizer(folder: Path) -> None:
    (folder / "last" / "tokenizer.json").write_text("{}")


def loop(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to("metrics.jsonl")


def pipe(folder: Path) -> None:
    """Opened, it would wait for ever."""
    (folder / "logs").mkdir()
    os.mkfifo(folder / "logs" / "ray.log")


ROLLOUT = rollout(0, "p", "r", 1.0)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "run.json").write_text('{"command": "sft"}'), ""),
        (lambda folder: first_line(folder, time=1e299), ""),
        (lambda folder: first_line(folder, **{"a/b": -1e299, "time/iteration": 1e299}), ""),
        (lambda folder: first_line(folder, iteration=-1e299), ""),
        (loop, ""),
        (pipe, ""),
        (tokenizer, "tokenizer.json: no tokenizer"),
        (lambda folder: rollouts(folder, b"\xff\n"), "not a file of rollouts: UnicodeDecodeError"),
        (lambda folder: rollouts(folder, b"[]\n"), ":1: not a rollout: TypeError"),
        (lambda folder: rollouts(folder, b"[" * 99_999), "not a file of rollouts: RecursionError"),
        (lambda folder: rollouts(folder, b" " * 2000), "longer than 1000 bytes unpacked"),
        (
            lambda folder: rollouts(
                folder, json.dumps({**ROLLOUT, "scores": {"reward": math.nan}}).encode()
            ),
            "no report can be made of these folders: ValueError",
        ),
        (
            lambda folder: rollouts(
                folder, json.dumps({**ROLLOUT, "response_ids": [-1, 10**30]}).encode()
            ),
            "no report can be made of these folders: TypeError",
        ),
    ],
)
def test_an_odd_folder_is_a_page_or_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    said: str,
) -> None:
    folder = write_run(tmp_path / "rto", iterations=1)
    monkeypatch.setattr(rollout_read, "UNPACKED", 1000 if "1000" in said else rollout_read.UNPACKED)
    damage(folder)
    code = main(["report", str(folder)])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == ((2, 1) if said else (0, 0))
    assert said in error
    assert (folder / "report.html").is_file() == (code == 0)


def test_the_page_stays_below_its_limit(folder: Path) -> None:
    text = json.dumps({"prompt": "x" * 3000})
    rows = [rollout(i, f"{i} {text}", "y", 0.0, ids=[1] * 300) for i in range(40)]
    write_iteration(folder, 0, rows)
    whole, small = (render(read_runs([folder]), max_bytes=n) for n in (3_000_000, 150_000))
    assert 150_000 < len(whole.encode()) <= 3_000_000
    assert len(small.encode()) <= 150_000
    kept = len(Outline(small).payload["samples"])
    assert 0 < kept < len(Outline(whole).payload["samples"])


def test_the_report_needs_no_heavy_library() -> None:
    code = "import sys, rto.report.page; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "vllm", "deepspeed", "transformers", "datasets", "matplotlib"}
    assert set(done.stdout.split()) & heavy == set()
