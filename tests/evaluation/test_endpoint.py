"""The judge's client against a scripted OpenAI-compatible server on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import (
    Fault,
    ScriptedServer,
    hang_up,
    says,
    serving,
    slow,
    status,
)

from rto.data.templates import Message
from rto.errors import JudgeError, UserError
from rto.evaluation.endpoint import Endpoint, Usage

KEY = "sk-secret-123"


def last_message(body: Any) -> str:
    """Answers each conversation with its last message."""
    return completion(body["messages"][-1]["content"])


def completion(text: object) -> str:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    return json.dumps({"choices": [{"index": 0, "message": message}], "usage": usage})


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(last_message, path="/v1", token=KEY) as scripted:
        yield scripted


def endpoint(server: ScriptedServer, **changed: Any) -> Endpoint:
    settings = {
        "key": KEY,
        "timeout": 0.4,
        "attempts": 3,
        "concurrency": 1,
        "backoff": 0.01,
        "options": {"temperature": 0, "max_tokens": None},
    }
    return Endpoint(url=server.url, model="judge", **{**settings, **changed})


def talks(*texts: str) -> list[list[Message]]:
    return [[{"role": "user", "content": text}] for text in texts]


def ask(
    held: Endpoint, folder: Path, *texts: str, steps: list[tuple[int, int]] | None = None
) -> tuple[list[str], Usage]:
    def progress(done: int, total: int, usage: Usage) -> None:
        if steps is not None:
            steps.append((done, total))

    return held.ask(talks(*texts), kept=folder / "kept.jsonl", progress=progress)


def test_good_answers_come_in_order_with_what_they_took(
    server: ScriptedServer, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    texts, usage = ask(
        endpoint(server, concurrency=4), tmp_path, *(f"t{i}" for i in range(9)), steps=steps
    )
    assert texts == [f"t{i}" for i in range(9)]
    assert usage == Usage(prompt_tokens=90, completion_tokens=18, num_asked=9)
    assert usage.cost((2.0, 10.0)) == pytest.approx((90 * 2 + 18 * 10) / 1e6)
    assert steps == [(i, 9) for i in range(1, 10)]
    assert server.requests[0].path == "/v1/chat/completions"
    # An option that is null is not sent.
    assert server.requests[0].body.keys() == {"model", "messages", "temperature"}


def test_what_was_answered_is_not_asked_again(server: ScriptedServer, tmp_path: Path) -> None:
    ask(endpoint(server), tmp_path, "a", "b")
    with (tmp_path / "kept.jsonl").open("a") as file:
        file.write('{"asked": "cut sho')
    texts, usage = ask(endpoint(server), tmp_path, "b", "c", "a")
    assert texts == ["b", "c", "a"]
    assert (usage.num_kept, usage.num_asked, len(server.requests)) == (2, 1, 3)
    # Another setting is another question.
    _, usage = ask(endpoint(server, options={"temperature": 1}), tmp_path, "a")
    assert (usage.num_kept, usage.num_asked) == (0, 1)


@pytest.mark.parametrize(
    "fault",
    [
        *(status(429), status(500), slow(1.0), hang_up),
        *(says("<html>"), says("{}"), says('{"choices": []}'), says(completion(["x"]))),
    ],
    ids=["429", "500", "slow", "hang_up", "html", "empty", "no_choice", "no_text"],
)
def test_a_fault_that_passes_is_tried_again(
    server: ScriptedServer, tmp_path: Path, fault: Fault
) -> None:
    server.plan = [fault, fault]
    assert ask(endpoint(server), tmp_path, "a")[0] == ["a"]
    assert len(server.requests) == 3


def test_the_server_says_how_long_to_wait(server: ScriptedServer, tmp_path: Path) -> None:
    server.plan = [status(429, Retry_After="1")]
    ask(endpoint(server), tmp_path, "a")
    assert server.times[1] - server.times[0] >= 1.0


def test_a_fault_that_stays_ends_the_run_and_keeps_the_rest(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.plan = [None, *[status(503)] * 3]
    with pytest.raises(JudgeError, match=r"no answer in 3 attempts, the last: status 503"):
        ask(endpoint(server), tmp_path, "a", "b")
    assert ask(endpoint(server), tmp_path, "a", "b")[1].num_kept == 1


@pytest.mark.parametrize(("key", "said"), [("sk-wrong", "was refused"), (None, "is missing")])
def test_a_wrong_key_is_one_line_without_the_key(
    server: ScriptedServer, tmp_path: Path, key: str | None, said: str
) -> None:
    with pytest.raises(JudgeError) as caught:
        ask(endpoint(server, key=key, key_env="MY_KEY"), tmp_path, "a", "b")
    assert f"the key {said}: set the environment variable MY_KEY" in str(caught.value)
    assert "sk-" not in str(caught.value)
    assert "sk-" not in repr(endpoint(server, key=key))
    assert len(server.requests) == 1


def test_a_refused_request_is_not_repeated(server: ScriptedServer, tmp_path: Path) -> None:
    server.plan = [status(400, f"no model judge\nfor {KEY}")]
    with pytest.raises(JudgeError, match=r"status 400: no model judge\\nfor \*\*\*"):
        ask(endpoint(server), tmp_path, "a")
    assert len(server.requests) == 1


def test_a_refusal_to_answer_is_an_empty_text(server: ScriptedServer, tmp_path: Path) -> None:
    server.plan = [says(completion(None))]
    assert ask(endpoint(server), tmp_path, "a")[0] == [""]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://x/v1", "needs http"),
        ("x/v1", "needs http"),
        ("http://me:secret@x/v1", "put no credentials"),
        ("http://x/v1?api-key=secret", "put no credentials"),
        ("http://[x", "needs http"),
    ],
)
def test_an_url_is_checked(url: str, said: str) -> None:
    with pytest.raises(UserError, match=f"--judge_url .*{said}") as caught:
        Endpoint(url=url, model="m", key=None)
    assert "secret" not in str(caught.value)


def test_an_answer_without_an_end_is_not_read_to_its_end(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rto.evaluation.endpoint.ANSWER_CAP", 1000)
    server.plan = [says(completion("x" * 2000))]
    with pytest.raises(JudgeError, match="the answer is longer than 1000 bytes"):
        ask(endpoint(server, timeout=20.0), tmp_path, "a")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"choices": [{"message": {}}], "usage": {"prompt_tokens": 1e999}}']
)
def test_an_answer_that_no_reader_takes_is_asked_for_again(
    server: ScriptedServer, tmp_path: Path, content: str
) -> None:
    server.plan = [says(content)]
    texts, _ = ask(endpoint(server, timeout=20.0), tmp_path, "a")
    assert texts == ["a"]
    assert len(server.requests) == 2
