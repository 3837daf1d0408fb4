"""An HTTP server on loopback that answers JSON requests, with the faults that a test plans."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Reply = Callable[[Any], str]
"""The good answer to a request's body."""
Fault = Callable[[BaseHTTPRequestHandler, bytes], None]
"""What happens in place of the good answer, which it is given."""


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    body: Any
    time: float


class ScriptedServer(ThreadingHTTPServer):
    """Request number i meets ``plan[i]``, if there is one; before that, another bearer token than
    ``token``, if there is one, is refused."""

    daemon_threads = True

    def __init__(self, reply: Reply, *, path: str, token: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}{path}"
        self.reply = reply
        self.token = token
        self.plan: list[Fault | None] = []
        self.requests: list[Request] = []

    @property
    def times(self) -> list[float]:
        return [request.time for request in self.requests]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what some faults are for."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(reply: Reply, *, path: str, token: str | None = None) -> Iterator[ScriptedServer]:
    server = ScriptedServer(reply, path=path, token=token)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, ScriptedServer)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = len(server.requests)
        server.requests.append(Request(self.path, dict(self.headers), body, time.monotonic()))
        fault = server.plan[number] if number < len(server.plan) else None
        given = self.headers["Authorization"]
        if server.token is not None and given != f"Bearer {server.token}":
            answer(self, 401, f"bad key {given}".encode())
        elif fault is not None:
            fault(self, server.reply(body).encode())
        else:
            answer(self, 200, server.reply(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def answer(handler: BaseHTTPRequestHandler, code: int, content: bytes, **headers: str) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def says(body: str) -> Fault:
    return lambda handler, good: answer(handler, 200, body.encode())


def status(code: int, body: str = "busy\x1b[31m", **headers: str) -> Fault:
    return lambda handler, good: answer(handler, code, body.encode(), **headers)


def cut(handler: BaseHTTPRequestHandler, good: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(good)))
    handler.end_headers()
    handler.wfile.write(good[:-7])
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler, good: bytes) -> None:
    handler.close_connection = True


def slow(seconds: float) -> Fault:
    def fault(handler: BaseHTTPRequestHandler, good: bytes) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return fault


def drip(handler: BaseHTTPRequestHandler, good: bytes) -> None:
    """A byte every 50 ms: no single read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "10000")
    handler.end_headers()
    for _ in range(100):
        time.sleep(0.05)
        try:
            handler.wfile.write(b" ")
        except OSError:
            return
