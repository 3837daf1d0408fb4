"""R7: faults of a reward server, each at several places of a call."""

from __future__ import annotations

import gzip
import json
import math
import random
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

import pytest
from scripted_server import (
    Fault,
    ScriptedServer,
    answer,
    cut,
    drip,
    hang_up,
    says,
    serving,
    slow,
    status,
)

from rto.errors import RewardProtocolError
from rto.scoring.http import RemoteReward

TIMEOUT = 2.0
BATCH, CONCURRENCY, ROWS = 4, 2, 24
WAVES = math.ceil(math.ceil(ROWS / BATCH) / CONCURRENCY)
QUERIES = [f"prompt {i // 4} {'x' * random.Random(i).randrange(50)}" for i in range(ROWS)]
SLACK = 3.0
"""Seconds for a loaded machine, on top of the stated bound."""

Place = Literal["first", "middle", "always", "left out"]
PLACES: tuple[Place, ...] = ("first", "middle", "always", "left out")


def scores(body: Any) -> str:
    return json.dumps({"rewards": [score(query) for query in body["query"]]})


def score(query: str) -> float:
    return random.Random(query).gauss(0, 1)


EXPECTED = [score(query) for query in QUERIES]


def raw(content: bytes) -> Fault:
    """These bytes in the place of an answer; then the connection is closed."""

    def fault(handler: BaseHTTPRequestHandler, good: bytes) -> None:
        handler.wfile.write(content)
        handler.close_connection = True

    return fault


def reset(handler: BaseHTTPRequestHandler, good: bytes) -> None:
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


def after_headers(handler: BaseHTTPRequestHandler, good: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(good)))
    handler.end_headers()
    handler.close_connection = True


def endless_headers(handler: BaseHTTPRequestHandler, good: bytes) -> None:
    handler.send_response(200)
    try:
        for number in range(100_000):
            handler.wfile.write(f"X-{number}: {'y' * 100}\r\n".encode())
    except OSError:
        handler.close_connection = True
    handler.close_connection = True


BOMB = gzip.compress(bytes(50 << 20))


def zipped(handler: BaseHTTPRequestHandler, good: bytes) -> None:
    answer(handler, 200, BOMB, Content_Encoding="gzip")


def tls(handler: BaseHTTPRequestHandler, good: bytes) -> None:
    raw(b"\x16\x03\x01\x02\x00" + ssl.RAND_bytes(64))(handler, good)


def rewards(*values: str) -> Fault:
    return says(f'{{"rewards": [{", ".join(values)}]}}')


PASSING: dict[str, Fault] = {
    "500": status(500),
    "502": status(502),
    "503": status(503),
    "504": status(504),
    "429": status(429),
    "429, Retry-After 0": status(429, Retry_After="0"),
    "429, Retry-After in the past": status(429, Retry_After="Wed, 01 Jan 2020 00:00:00 GMT"),
    "429, Retry-After junk": status(429, Retry_After="soon"),
    "503, Retry-After 1": status(503, Retry_After="1"),
    "cut in the body": cut,
    "closed without an answer": hang_up,
    "closed after the headers": after_headers,
    "reset": reset,
    "slow first byte": slow(TIMEOUT),
    "drip": drip,
    "TLS bytes": tls,
    "not HTTP": raw(b"hello\r\n\r\n"),
    "cut in a chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"),
    "endless headers": endless_headers,
    "status 99": raw(b"HTTP/1.1 99 What\r\n\r\n"),
    "100 Continue for ever": raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}
"""The request may be answered when it is sent again."""

LASTING: dict[str, Fault] = {
    "empty": says(""),
    "HTML": says("<html>log in</html>"),
    "NaN": rewards("1", "2", "NaN", "4"),
    "Infinity": rewards("1", "2", "-Infinity", "4"),
    "1e999": rewards("1", "2", "1e999", "4"),
    "beyond float32": rewards("1e39", "2", "3", "4"),
    "2^200": rewards(str(2**200), "2", "3", "4e38"),
    "text": rewards('"1.0"', "2", "3", "4"),
    "null": rewards("null", "2", "3", "4"),
    "bool": rewards("true", "2", "3", "4"),
    "list": rewards("[1]", "2", "3", "4"),
    "too few": rewards("1", "2", "3"),
    "too many": rewards("1", "2", "3", "4", "5"),
    "none": rewards(),
    "no list": says('{"rewards": 1}'),
    "other key": says('{"scores": [1, 2, 3, 4]}'),
    "list alone": says("[1, 2, 3, 4]"),
    "key twice": says('{"rewards": [1, 2, 3, 4], "rewards": [5, 6, 7, 8]}'),
    "error beside": says('{"rewards": [0, 0, 0, 0], "error": "out of memory"}'),
    "deep": says('{"rewards": ' + "[" * 100_000),
    "not UTF-8": raw(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"rewards": \xff}'),
    "long": says('{"rewards": [1, 2, 3, 4]}' + " " * (3 << 20)),
    "zipped": zipped,
    "204": status(204, ""),
    "301": status(301, Location="http://127.0.0.1:9/"),
    "307": status(307, Location="/other"),
    "400": status(400),
    "401": status(401),
    "403": status(403),
    "404": status(404),
    "409": status(409),
    "413": status(413),
    "422": status(422),
    "429, Retry-After 99999": status(429, Retry_After="99999"),
}
"""The same request would be answered the same way."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(scores, path="/get_reward") as scripted:
        yield scripted


def planned(fault: Fault, place: Place) -> list[Fault | None]:
    match place:
        case "first" | "left out":
            return [fault]
        case "middle":
            return [None, None, None, fault]
        case "always":
            return [fault] * 10_000


def ends_as_specified(server: ScriptedServer, fault: Fault, place: Place, *, lasting: bool) -> bool:
    server.plan = planned(fault, place)
    source = RemoteReward(
        server.url,
        token=None,
        timeout=TIMEOUT,
        batch_size=BATCH,
        concurrency=CONCURRENCY,
        on_failure="drop_group" if place == "left out" else "stop",
    )
    began, given, said = time.monotonic(), None, ""
    try:
        given = source(QUERIES, QUERIES, [None] * ROWS)
    except RewardProtocolError as error:
        said = str(error)
    bound = TIMEOUT * WAVES if place == "middle" else TIMEOUT * (2 if place == "first" else WAVES)
    in_time = time.monotonic() - began < bound + SLACK
    if place == "left out" and lasting:
        return in_time and given is not None and _left_out(given)
    if place == "always" or lasting:
        told = server.url in said and len(said.splitlines()) == 1 and len(said) < 1000
        return in_time and told and len(server.requests) < 100
    return in_time and given == EXPECTED


def _left_out(given: list[float | None]) -> bool:
    """Exactly one request's rewards are missing, and nothing stands in their place."""
    missing = [i for i, x in enumerate(given) if x is None]
    others = [(x, EXPECTED[i]) for i, x in enumerate(given) if x is not None]
    return len(missing) == BATCH == missing[-1] - missing[0] + 1 and all(x == y for x, y in others)


@pytest.mark.faults
@pytest.mark.goal("R7", "a fault of a reward server at one place of a call")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [*PASSING, *LASTING])
def test_rewards(server: ScriptedServer, tally: Any, name: str, place: Place) -> None:
    fault = {**PASSING, **LASTING}[name]
    assert tally.count(ends_as_specified(server, fault, place, lasting=name in LASTING)), place


@pytest.mark.faults
@pytest.mark.goal("R7", "a fault of a reward server at one place of a call")
def test_nobody_listens_or_answers(tally: Any) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        for port in (silent.getsockname()[1], _free()):
            url = f"http://127.0.0.1:{port}/"
            began = time.monotonic()
            with pytest.raises(RewardProtocolError, match="no answer within"):
                RemoteReward(url, token=None, timeout=1.0, batch_size=4)(["q"], ["p"], [None])
            assert tally.count(time.monotonic() - began < 1.0 + SLACK)
    began = time.monotonic()
    url = "http://no-such-host.invalid/"
    with pytest.raises(RewardProtocolError):
        RemoteReward(url, token=None, timeout=1.0, batch_size=4)(["q"], ["p"], [None])
    assert tally.count(time.monotonic() - began < 10)


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]
