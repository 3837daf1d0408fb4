"""The reward server over a real socket, asked by the pipeline's own client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rto.errors import RewardProtocolError, UserError
from rto.scoring.desk import REQUEST_CAP, Desk, TextReward
from rto.scoring.function import RewardFunction
from rto.scoring.http import RemoteReward
from rto.scoring.listen import Listener
from rto.scoring.server import ServedRewardModel, build_app, serve

QUERIES = ["a b", "c d e f a b c d", "e", "a b c </s>", "f f"]
PROMPTS = ["a", "c", "e", "a", "f"]
LABELS = ["x", None, None, "y", None]
JSON = {"Content-Type": "application/json"}


@contextmanager
def served(source: TextReward | Desk, *, token: str | None = None) -> Iterator[str]:
    app = build_app(source if isinstance(source, Desk) else Desk([source]), token=token)
    config = uvicorn.Config(app, log_level="error")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def lengths(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
) -> list[float]:
    return [float(len(query)) for query in queries]


def ask(url: str, *, token: str | None = None) -> list[float | None]:
    return RemoteReward(url, token=token, timeout=20.0, batch_size=2)(QUERIES, PROMPTS, LABELS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random one-label Llama in which `</s>` is padding and end of sequence at once."""
    folder = str(tmp_path_factory.mktemp("model"))
    vocabulary = {token: i for i, token in enumerate(["</s>", "a", "b", "c", "d", "e", "f"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", pad_token="</s>", unk_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=7,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=12,
        pad_token_id=0,
    )
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def one_by_one(checkpoint: str, queries: Sequence[str]) -> list[float]:
    """The definition: head `score` at the last token of each text alone."""
    model = LlamaForSequenceClassification.from_pretrained(checkpoint).eval()
    ids = {"</s>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}
    scores = []
    for query in queries:
        row = torch.tensor([[ids[word] for word in query.split()]])
        with torch.no_grad():
            hidden = model.model(row).last_hidden_state
            scores.append(model.score(hidden[:, -1]).item())
    return scores


@pytest.mark.parametrize("max_batch", [1, 2, 64])
def test_reward_model_scores_each_text_as_if_alone(checkpoint: str, max_batch: int) -> None:
    model = ServedRewardModel(checkpoint, max_batch=max_batch)
    torch.testing.assert_close(
        model(QUERIES, PROMPTS, LABELS), one_by_one(checkpoint, QUERIES), rtol=1e-5, atol=1e-6
    )


def test_reward_model_over_http(checkpoint: str) -> None:
    model = ServedRewardModel(checkpoint, max_batch=4)
    with served(model, token="right") as url:
        torch.testing.assert_close(
            ask(url, token="right"), one_by_one(checkpoint, QUERIES), rtol=1e-5, atol=1e-6
        )
        with pytest.raises(RewardProtocolError, match="401, the bearer token was refused"):
            ask(url, token="wrong")
        with pytest.raises(RewardProtocolError, match="401, the bearer token is missing"):
            ask(url)
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("query", "message"), [("a " * 13, "13 tokens, the reward model reads 12"), ("", "no tokens")]
)
def test_a_text_that_cannot_be_scored_is_the_requests_fault(
    checkpoint: str, query: str, message: str
) -> None:
    with served(ServedRewardModel(checkpoint, max_batch=4)) as url:
        client = RemoteReward(url, token=None, timeout=20.0, batch_size=8)
        with pytest.raises(RewardProtocolError, match=rf"status 422.*query\[1\] has {message}"):
            client(["a", query], ["a", "a"], [None, None])


def test_a_language_model_is_no_reward_model(checkpoint: str, tmp_path: Path) -> None:
    model = LlamaForSequenceClassification.from_pretrained(checkpoint)
    model.model.save_pretrained(tmp_path)
    for file in Path(checkpoint).glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="score"):
        ServedRewardModel(str(tmp_path), max_batch=1)


def test_reward_function_over_http(tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_text(
        "def reward_func(queries, prompts, labels):\n"
        "    return [len(q) - len(p) + 100 * (y == 'y')"
        " for q, p, y in zip(queries, prompts, labels)]\n"
    )
    with served(RewardFunction(str(path))) as url:
        assert ask(f"{url}/get_reward") == [2.0, 14.0, 0.0, 109.0, 2.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_source_that_is_not_finite_is_an_error_without_retries(bad: float) -> None:
    calls: list[int] = []

    def source(*arguments: Sequence[str | None]) -> list[float]:
        calls.append(len(arguments[0]))
        return [bad] * len(arguments[0])

    with (
        served(source) as url,
        pytest.raises(RewardProtocolError, match=r"422.*rewards\[0\] is (nan|inf)"),
    ):
        ask(url)
    assert len(calls) <= 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "JSON"),
        (b"[]", "request"),
        (b'{"query": ["a"], "prompts": ["a"]}', "labels: Field required"),
        (b'{"query": [1], "prompts": ["a"], "labels": [null]}', "query.0"),
        (b'{"query": ["a", "b"], "prompts": ["a"], "labels": [null]}', "equal numbers"),
    ],
)
def test_malformed_requests_are_named(body: bytes, message: str) -> None:
    with served(lengths) as url:
        answer = httpx.post(url, content=body, headers=JSON)
        assert answer.status_code == 422
        assert message in answer.json()["detail"]


def test_oversized_requests_are_refused_whatever_they_declare() -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b" " * (1 << 20) for _ in range((REQUEST_CAP >> 20) + 1))

    with served(lengths) as url:
        assert httpx.post(url, content=chunks(), headers=JSON).status_code == 413


def test_one_request_at_a_time_reaches_the_source() -> None:
    inside, most = [0], [0]

    def source(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
    ) -> list[float]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return lengths(queries, prompts, labels)

    with served(source) as url:
        threads = [threading.Thread(target=ask, args=(url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1]


@pytest.mark.parametrize("sources", [(None, None), ("model", "f.py")])
def test_exactly_one_source(sources: tuple[str | None, str | None]) -> None:
    model, function = sources
    with pytest.raises(UserError, match="one of them"):
        serve(
            reward_model=model,
            func_path=function,
            listener=Listener(socket.socket(), None, ""),
            max_batch=8,
        )


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_a_web_page_cannot_drive_it(headers: dict[str, str], code: int) -> None:
    seen: list[str] = []

    def source(*arguments: Sequence[str | None]) -> list[float]:
        seen.append("scored")
        return [0.0]

    body = b'{"query": ["a"], "prompts": ["a"], "labels": [null]}'
    with served(source) as url:
        assert httpx.post(url, content=body, headers={**JSON, **headers}).status_code == code
        assert seen == []
        assert httpx.post(url, content=body, headers=JSON).json() == {"rewards": [0.0]}


def test_a_slow_request_holds_up_neither_health_nor_more_than_may_wait() -> None:
    go_on = threading.Event()

    def source(*arguments: Sequence[str | None]) -> list[float]:
        assert go_on.wait(30)
        return [0.0]

    body = b'{"query": ["a"], "prompts": ["a"], "labels": [null]}'
    answers: list[int] = []

    def post() -> None:
        answers.append(httpx.post(url, content=body, headers=JSON, timeout=30).status_code)

    desk = Desk([source], waiting=2)
    with served(desk) as url:
        threads = [threading.Thread(target=post) for _ in range(3)]
        for thread in threads:
            thread.start()
        while desk.waits < 2:
            time.sleep(0.01)
        full = httpx.post(url, content=body, headers=JSON)
        assert full.status_code == 503
        assert full.headers["Retry-After"] == "1"
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        go_on.set()
        for thread in threads:
            thread.join()
    assert answers == [200] * 3


def test_requests_that_are_sent_in_part_are_told_of_nowhere(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with served(lengths) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for _ in range(20):
            with socket.create_connection(address) as half:
                half.sendall(
                    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b'Content-Length: 100\r\n\r\n{"query": ['
                )
        assert ask(url) == [float(len(query)) for query in QUERIES]
    assert capfd.readouterr().err == ""
