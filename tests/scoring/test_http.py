"""The reward client against a scripted server on loopback: one fault per request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from scripted_server import (
    Fault,
    ScriptedServer,
    cut,
    drip,
    hang_up,
    says,
    serving,
    slow,
    status,
)

from rto.errors import RewardProtocolError, UserError
from rto.scoring.http import RemoteReward, retry_after

QUERIES = ["p a", "p bb", "p ccc", "q dddd", "q \udc80"]
PROMPTS = ["p", "p", "p", "q", "q"]
LABELS = ["x", None, "y", None, "z"]
REWARDS = [3.0, 4.0, 5.0, 6.0, 3.0]


def lengths(body: Any) -> str:
    """Rewards each query with its length."""
    return json.dumps({"rewards": [float(len(query)) for query in body["query"]]})


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(lengths, path="/get_reward") as scripted:
        yield scripted


def client(server: ScriptedServer, **changes: Any) -> RemoteReward:
    settings = {"token": None, "timeout": 20.0, "batch_size": 2, "concurrency": 1, **changes}
    return RemoteReward(server.url, **settings)


def test_sends_openrlhfs_fields_in_batches(server: ScriptedServer) -> None:
    assert client(server)(QUERIES, PROMPTS, LABELS) == REWARDS
    assert [request.body["query"] for request in server.requests] == [
        QUERIES[0:2],
        QUERIES[2:4],
        QUERIES[4:5],
    ]
    assert [request.body["prompts"] for request in server.requests] == [
        ["p", "p"],
        ["p", "q"],
        ["q"],
    ]
    assert [request.body["labels"] for request in server.requests] == [
        ["x", None],
        ["y", None],
        ["z"],
    ]
    assert "Authorization" not in server.requests[0].headers


def test_no_queries_send_nothing(server: ScriptedServer) -> None:
    assert client(server)([], [], []) == []
    assert server.requests == []


@pytest.mark.parametrize(
    "plan",
    [
        [status(500)],
        [None, status(503), status(502)],
        [status(429, Retry_After="0")],
        [cut],
        [hang_up, None, hang_up],
        [status(500), cut, None, status(429, Retry_After="junk"), hang_up, None, status(504)],
    ],
)
def test_passing_faults_change_no_reward(server: ScriptedServer, plan: list[Fault | None]) -> None:
    server.plan = plan
    started = time.monotonic()
    assert client(server)(QUERIES, PROMPTS, LABELS) == REWARDS
    assert len(server.requests) == 3 + sum(fault is not None for fault in plan)
    assert time.monotonic() - started < 20


def test_a_lost_request_is_sent_again_after_half_the_time(server: ScriptedServer) -> None:
    server.plan = [slow(1.5)]
    assert client(server, timeout=1.4, batch_size=8)(QUERIES, PROMPTS, LABELS) == REWARDS
    first, second = server.times
    assert 0.6 < second - first < 1.4


def test_retry_after_is_honoured(server: ScriptedServer) -> None:
    server.plan = [status(429, Retry_After="1")]
    assert client(server, batch_size=8)(QUERIES, PROMPTS, LABELS) == REWARDS
    first, second = server.times
    assert 0.95 < second - first < 3


def test_retry_after_beyond_the_deadline_ends_at_once(server: ScriptedServer) -> None:
    server.plan = [status(429, Retry_After="99999")]
    started = time.monotonic()
    with pytest.raises(RewardProtocolError, match=r"asks to wait 99999 s more: .* 20 s"):
        client(server)(QUERIES, PROMPTS, LABELS)
    assert time.monotonic() - started < 5
    assert len(server.requests) == 1


@pytest.mark.parametrize("asked", ["0", formatdate(1_577_836_800, usegmt=True)])
def test_a_server_that_asks_for_no_wait_is_not_asked_at_once(
    server: ScriptedServer, asked: str
) -> None:
    """The backoff doubles from 0.25 s on and is drawn below that: 1 s holds some six tries."""
    server.plan = [status(429, Retry_After=asked)] * 1000
    with pytest.raises(RewardProtocolError, match="last: status 429"):
        client(server, timeout=1.0)(QUERIES, PROMPTS, LABELS)
    assert len(server.requests) < 15


@pytest.mark.parametrize("fault", [status(500), slow(3.0), drip, hang_up, cut])
def test_a_lasting_fault_ends_within_the_deadline(server: ScriptedServer, fault: Fault) -> None:
    server.plan = [fault] * 1000
    started = time.monotonic()
    with pytest.raises(RewardProtocolError, match="no answer within") as caught:
        client(server, timeout=1.0)(QUERIES, PROMPTS, LABELS)
    assert time.monotonic() - started < 2
    assert server.url in str(caught.value)
    assert len(server.requests) >= 2


def test_nobody_listens() -> None:
    gone = ScriptedServer(lengths, path="/get_reward")
    gone.server_close()
    with pytest.raises(RewardProtocolError, match=r"no answer within .*ConnectError"):
        client(gone, timeout=0.5)(QUERIES, PROMPTS, LABELS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"rewards": [1.0, NaN]}', r"rewards\[3\] is nan"),
        ('{"rewards": [1.0, 1e999]}', r"rewards\[3\] is inf"),
        ('{"rewards": [1.0, 1e39]}', r"rewards\[3\] is float 1e\+39, not finite"),
        ('{"rewards": ["1.0", 2.0]}', r"rewards\[2\] is str '1.0', not a number"),
        ('{"rewards": [null, 2.0]}', r"rewards\[2\] is NoneType None, not a number"),
        ('{"rewards": [true, 2.0]}', r"rewards\[2\] is bool True, not a number"),
        ('{"rewards": [[1.0], 2.0]}', r"rewards\[2\] is list, not a number"),
        ('{"rewards": [1.0]}', "1 rewards for 2 responses"),
        ('{"rewards": [1, 2, 3]}', "3 rewards for 2 responses"),
        ('{"rewards": null}', "rewards is NoneType None, expected a list"),
        ('{"rewards": "12"}', "rewards is str '12', expected a list"),
        ('{"scores": [1, 2]}', "holds no 'rewards'"),
        ("[1.0, 2.0]", "holds no 'rewards'"),
        ("<html>login</html>", "not JSON .*: '<html>login"),
        ('{"rewards": [1, 2], "rewards": [3, 4]}', "'rewards' stands twice"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"rewards": [1.0, 2.0]}' + " " * 2_000_000, "longer than"),
    ],
)
def test_a_broken_answer_is_an_error_and_no_retry(
    server: ScriptedServer, body: str, message: str
) -> None:
    server.plan = [None, says(body)]
    with pytest.raises(RewardProtocolError, match=message) as caught:
        client(server)(QUERIES, PROMPTS, LABELS)
    assert server.url in str(caught.value)
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [400, 404, 413, 422, 204])
def test_other_statuses_are_errors_and_no_retry(server: ScriptedServer, code: int) -> None:
    server.plan = [status(code)]
    with pytest.raises(RewardProtocolError, match=f"status {code}") as caught:
        client(server)(QUERIES, PROMPTS, LABELS)
    assert len(server.requests) == 1
    assert "\x1b" not in str(caught.value)


def test_redirects_are_not_followed(server: ScriptedServer) -> None:
    server.plan = [status(307, Location="/other")]
    with pytest.raises(RewardProtocolError, match="redirects are not followed"):
        client(server)(QUERIES, PROMPTS, LABELS)
    assert len(server.requests) == 1


def test_bearer_token(server: ScriptedServer) -> None:
    server.token = "right"
    assert client(server, token="right")(QUERIES, PROMPTS, LABELS) == REWARDS
    with pytest.raises(RewardProtocolError, match="401, the bearer token was refused") as caught:
        client(server, token="planted-secret")(QUERIES, PROMPTS, LABELS)
    assert "planted-secret" not in str(caught.value)
    assert "planted-secret" not in repr(client(server, token="planted-secret"))
    with pytest.raises(RewardProtocolError, match="401, the bearer token is missing"):
        client(server)(QUERIES, PROMPTS, LABELS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x", "needs http"),
        ("file:///etc/passwd", "needs http"),
        ("host:80/x", "needs http"),
        ("http://", "needs http"),
        ("http://user:hidden@host/", "no credentials"),
        ("http://host/?api_key=hidden", r"api_key=\*\*\*: put no credentials"),
        ("http://host/?key=${NO_SUCH_VARIABLE_HERE}&a=hidden", "NO_SUCH_VARIABLE_HERE is not set"),
        ("http://host:99999999/?api_key=hidden", "api_key"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        RemoteReward(url, token=None, timeout=1.0, batch_size=1)
    assert "hidden" not in str(caught.value)


def test_a_variable_keeps_the_query_out_of_sight(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARD_KEY", "planted-value")
    url = f"{server.url}?api_key=${{REWARD_KEY}}&model=m"
    source = RemoteReward(url, token=None, timeout=5.0, batch_size=8)
    server.plan = [status(400, "no such key planted-value")]
    with pytest.raises(RewardProtocolError, match="status 400") as caught:
        source(QUERIES, PROMPTS, LABELS)
    assert server.requests[0].path.endswith("?api_key=planted-value&model=m")
    assert "planted-value" not in f"{caught.value}{source!r}{source}"
    assert str(source).endswith("?api_key=***&model=***")


def test_a_token_that_no_header_can_hold_is_refused_unseen() -> None:
    with pytest.raises(UserError, match="no HTTP header") as caught:
        RemoteReward("http://host/", token="abc\r\ndef", timeout=1.0, batch_size=1)
    assert "abc" not in str(caught.value)


def test_retry_after_forms() -> None:
    assert retry_after("7", now=0.0) == 7.0
    assert retry_after(formatdate(1_000_000, usegmt=True), now=999_990.5) == 9.5
    assert retry_after(formatdate(1_000_000, usegmt=True), now=2_000_000) == 0.0
    assert retry_after("soon", now=0.0) is None
    assert retry_after(None, now=0.0) is None


def test_an_error_beside_the_rewards_is_believed(server: ScriptedServer) -> None:
    server.reply = lambda body: json.dumps({"rewards": [0.0] * len(body["query"]), "error": "x"})
    with pytest.raises(RewardProtocolError, match="tells of an error beside rewards: 'x'"):
        client(server)(QUERIES, PROMPTS, LABELS)


def test_a_token_that_an_answer_repeats_is_not_shown(server: ScriptedServer) -> None:
    server.reply = lambda body: "tok-hunter2"
    with pytest.raises(RewardProtocolError, match="not JSON") as caught:
        client(server, token="tok-hunter2")(QUERIES, PROMPTS, LABELS)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h:99999/", "port 99999: must be from 1 to 65535"),
        ("http://h/?token=$TOKEN", r"\$TOKEN is no variable here: write \$\{TOKEN\}"),
        ("http://h/token/hunter2hunter2", "put no credentials into the URL"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        RemoteReward(url, None, 1.0, 1)
    assert "hunter2" not in str(caught.value)


MANY = [f"p {'x' * i}" for i in range(24)]
MANY_REWARDS = [float(len(query)) for query in MANY]


def ask_many(source: RemoteReward) -> list[float | None]:
    return source(MANY, ["p"] * len(MANY), [None] * len(MANY))


def test_requests_of_a_call_are_sent_at_once_up_to_a_bound(server: ScriptedServer) -> None:
    """Each waits until the bound is full: were there fewer at once, all would time out."""
    full, lock, inside, most = threading.Barrier(3), threading.Lock(), 0, 0

    def reply(body: Any) -> str:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        full.wait(10)
        with lock:
            inside -= 1
        return lengths(body)

    server.reply = reply
    assert ask_many(client(server, batch_size=2, concurrency=3)) == MANY_REWARDS
    assert most == 3


def test_answers_keep_their_places_whichever_comes_first(server: ScriptedServer) -> None:
    def reply(body: Any) -> str:
        time.sleep(0.002 * (30 - len(body["query"][0])))
        return lengths(body)

    server.reply = reply
    assert ask_many(client(server, batch_size=1, concurrency=8)) == MANY_REWARDS


def test_the_first_failure_ends_the_others(server: ScriptedServer) -> None:
    server.plan = [slow(10.0), status(400), slow(10.0)]
    started = time.monotonic()
    with pytest.raises(RewardProtocolError, match="status 400"):
        ask_many(client(server, batch_size=8, concurrency=3))
    assert time.monotonic() - started < 5


def fails_on(*lengths_of: int) -> Any:
    """A server that answers nonsense about queries of these lengths."""
    return lambda body: "?" if len(body["query"][0]) in lengths_of else lengths(body)


def test_a_request_that_fails_for_good_leaves_its_rewards_out(server: ScriptedServer) -> None:
    server.reply = fails_on(2 + 4, 2 + 20)
    source = client(server, batch_size=2, concurrency=4, on_failure="drop_group")
    expected = [None if i in (4, 5, 20, 21) else x for i, x in enumerate(MANY_REWARDS)]
    assert ask_many(source) == expected


def test_a_server_that_fails_again_and_again_is_given_up(server: ScriptedServer) -> None:
    server.reply = fails_on(*range(2 + 6, 100))
    source = client(server, batch_size=2, on_failure="drop_group")
    with pytest.raises(RewardProtocolError, match=r"not JSON.*; 3 requests in a row failed, so no"):
        ask_many(source)
    assert len(server.requests) == 3 + 3


def test_a_success_between_failures_does_not_give_a_server_up(server: ScriptedServer) -> None:
    server.reply = fails_on(*range(2, 100, 4))
    rewards = ask_many(client(server, batch_size=2, on_failure="drop_group"))
    assert [x is None for x in rewards] == [True, True, False, False] * 6
