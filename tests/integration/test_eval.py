"""`rto eval` on real engines: two tiny policies, a reward-model judge and a local vLLM judge."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from reward_models import build_reward_model

from rto.cli.main import main
from rto.quickstart.data import write_task
from rto.quickstart.tokenizer import build_base_model, build_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

JUDGE_PROMPT = """
user: "{instruction} {answer_a} {answer_b}"
verdicts: {a: "[[A]]", b: "[[B]]", tie: "[[C]]"}
"""
NUM_PROMPTS = 6


def test_a_policy_against_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("one", "two")):
        build_base_model(tmp_path / name, seed)
    build_reward_model(tmp_path / "rm", tmp_path / "one")
    write_task(tmp_path, seed=0, num_sft=2, num_pairs=2, num_prompts=2, num_eval=NUM_PROMPTS)
    (tmp_path / "judge.yaml").write_text(JUDGE_PROMPT)
    out = tmp_path / "out"
    judges = [f"reward:{tmp_path / 'rm'}", f"vllm:{tmp_path / 'two'}"]
    code = main(
        [
            *("eval", "--model", str(tmp_path / "one"), "--baseline", str(tmp_path / "two")),
            *("--prompts", str(tmp_path / "eval_prompts.jsonl"), "--max_new_tokens", "16"),
            *("--temperature", "1", "--reference", str(tmp_path / "one")),
            *("--metrics", "words,distinct_1,self_bleu", "--output_dir", str(out)),
            *("--judge", judges[0], "--judge", judges[1], "--judge_max_tokens", "4"),
            *("--judge_prompt", str(tmp_path / "judge.yaml")),
            *("--ds.param_dtype", "fp32", "--train.device", "cpu"),
        ]
    )
    assert code == 0
    result = json.loads((out / "eval.json").read_text())
    one, two = (result["figures"][name]["metrics"] for name in ("one", "two"))
    # The reference is the first policy itself; the second was initialised apart from it.
    assert one["kl"]["value"] == pytest.approx(0, abs=1e-3)
    assert two["kl"]["value"] > 0.1
    assert {"words", "distinct_1", "self_bleu", "reward", "cut", "kl"} == set(one)

    by_reward, by_chat = (result["win_rates"][judge] for judge in judges)
    assert by_reward["num_prompts"] == NUM_PROMPTS
    assert 0 <= by_reward["win_rate"]["mean"] <= 1
    # A random model writes no verdict: all is counted, no win rate is made up.
    assert by_chat["win_rate"] is None
    assert by_chat["num_judgements"] == by_chat["num_unparsed"] == 2 * NUM_PROMPTS
    assert by_chat["num_left_out"] == NUM_PROMPTS
    assert "none: no verdict" in capsys.readouterr().out

    judgements = [json.loads(line) for line in (out / "judgements.jsonl").read_text().splitlines()]
    assert [each["winner"] for each in judgements] == [None] * 2 * NUM_PROMPTS
    for name in ("one", "two"):
        rows = json.loads((out / name / "model_outputs.json").read_text())
        assert [row["generator"] for row in rows] == [name] * NUM_PROMPTS

    # Nothing is sampled twice: the same outputs, read back, get the same scores.
    again = tmp_path / "again"
    outputs = [str(out / name / "model_outputs.json") for name in ("one", "two")]
    code = main(
        [
            *("eval", "--outputs", outputs[0], "--baseline_outputs", outputs[1]),
            *("--prompts", str(tmp_path / "eval_prompts.jsonl"), "--metrics", "words"),
            *("--output_dir", str(again)),
        ]
    )
    assert code == 0
    reread = json.loads((again / "eval.json").read_text())["figures"]
    assert reread["one"]["metrics"]["words"] == one["words"]


@contextlib.contextmanager
def chat_server(model: Path, key: str, log: Path) -> Iterator[str]:
    """The base URL of vLLM's own OpenAI-compatible server, on the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "judge", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager"]
    env = {**os.environ, "VLLM_API_KEY": key, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w", encoding="utf-8") as output:
        server = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            while httpx_status(f"{url}/health") != 200:
                assert server.poll() is None, log.read_text(encoding="utf-8")[-3000:]
                time.sleep(0.5)
            yield f"{url}/v1"
        finally:
            server.terminate()
            server.wait(60)


def httpx_status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0


def test_a_real_chat_server_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias on the verdicts' marks, words of the toy, makes every answer one of them."""
    model = tmp_path / "model"
    build_base_model(model, 0)
    write_task(tmp_path, seed=0, num_sft=2, num_pairs=2, num_prompts=2, num_eval=NUM_PROMPTS)
    prompts = [
        json.loads(line)["prompt"]
        for line in (tmp_path / "eval_prompts.jsonl").read_text().splitlines()
    ]
    for name in ("ours", "theirs"):
        rows = [{"instruction": x, "output": name, "generator": name} for x in prompts]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    marks = {"a": "happy", "b": "sad", "tie": "calm"}
    user = "{instruction} {answer_a} {answer_b}"
    (tmp_path / "judge.yaml").write_text(json.dumps({"user": user, "verdicts": marks}))
    ids = [build_tokenizer(model).convert_tokens_to_ids(mark) for mark in marks.values()]
    bias = json.dumps({"logit_bias": {str(token): 100 for token in ids}})
    monkeypatch.setenv("JUDGE_KEY", "a-secret-of-this-test")
    with chat_server(model, "a-secret-of-this-test", tmp_path / "server.log") as url:
        code = main(
            [
                *("eval", "--outputs", str(tmp_path / "ours.json")),
                *("--baseline_outputs", str(tmp_path / "theirs.json"), "--metrics", "words"),
                *("--prompts", str(tmp_path / "eval_prompts.jsonl")),
                *("--judge", "openai:judge", "--judge_url", url, "--judge_key_env", "JUDGE_KEY"),
                *("--judge_prompt", str(tmp_path / "judge.yaml"), "--judge_max_tokens", "1"),
                *("--judge_options", bias, "--output_dir", str(tmp_path / "out")),
            ]
        )
    assert code == 0
    found = json.loads((tmp_path / "out" / "eval.json").read_text())["win_rates"]["openai:judge"]
    assert (found["num_judgements"], found["num_unparsed"]) == (2 * NUM_PROMPTS, 0)
    assert 0 <= found["win_rate"]["mean"] <= 1
    for file in (tmp_path / "out").rglob("*.json*"):
        assert "a-secret-of-this-test" not in file.read_text()
