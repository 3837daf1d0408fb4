"""Who may ask a reward server, and how many may wait."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from rto.scoring.listen import is_loopback

REQUEST_CAP = 64 << 20
"""Longest request, in bytes."""
SENDING = 60.0
"""Seconds that a client may take to send a request."""
WAITING = 64
"""Requests that may wait for a turn."""
RETRY_AFTER = "1"
"""Seconds that one is asked to wait that found no place."""

TextReward = Callable[[Sequence[str], Sequence[str], Sequence[str | None]], list[float]]


class Desk:
    """Gives each request a source of its own for as long as its turn lasts.

    ``waiting`` requests may stand in line, each for at most ``patience`` seconds. Belongs to the
    event loop that it is used in. ``threads`` has one for each source.
    """

    def __init__(
        self, sources: Sequence[TextReward], *, waiting: int = WAITING, patience: float = 60.0
    ) -> None:
        self.threads = ThreadPoolExecutor(len(sources), thread_name_prefix="rewards")
        self._free: asyncio.Queue[TextReward] = asyncio.Queue()
        for source in sources:
            self._free.put_nowait(source)
        self._waiting = waiting
        self._patience = patience
        self.waits = 0
        """Requests in the line."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[TextReward]:
        """
        Raises:
            HTTPException: 503, with Retry-After: too many wait already, or this one waited too
                long.
        """
        source = await self._next()
        try:
            yield source
        finally:
            self._free.put_nowait(source)

    async def _next(self) -> TextReward:
        if self._free.empty() and self.waits >= self._waiting:
            raise _busy(f"{self.waits} requests wait already")
        self.waits += 1
        try:
            async with asyncio.timeout(self._patience):
                return await self._free.get()
        except TimeoutError:
            raise _busy(f"no turn within {self._patience:g} s") from None
        finally:
            self.waits -= 1


def _busy(why: str) -> HTTPException:
    return HTTPException(503, f"busy: {why}", {"Retry-After": RETRY_AFTER})


def check_sender(request: Request, token: str | None) -> None:
    """Refuse whom a browser sent, or one without the token.

    A page of another site can make a browser send requests here: with an Origin that is not this
    server, and under a name of its own that it has pointed at this machine. Without a token, only
    the names of this machine itself are answered.

    Raises:
        HTTPException: 401, 403 or 415.
    """
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise HTTPException(403, "requests of web pages are not answered")
    if token is None and not _is_this_machine(host):
        raise HTTPException(403, "without a token, only requests to 127.0.0.1 are answered")
    given = request.headers.get("Authorization", "")
    if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise HTTPException(401, "bearer token missing or wrong", {"WWW-Authenticate": "Bearer"})
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "Content-Type must be application/json")


def _is_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name)


async def body(request: Request) -> bytes:
    """The whole request.

    Raises:
        HTTPException: 413, it is too long; 408, it takes too long, or its client has left.
    """
    try:
        async with asyncio.timeout(SENDING):
            return await _received(request)
    except TimeoutError:
        raise HTTPException(408, f"the request took more than {SENDING:g} s to send") from None


async def _received(request: Request) -> bytes:
    content, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise gone()
        content += message.get("body", b"")
        more = message.get("more_body", False)
        if len(content) > REQUEST_CAP:
            raise HTTPException(413, f"request is longer than {REQUEST_CAP} bytes: send fewer rows")
    return bytes(content)


def gone() -> HTTPException:
    """For the log alone: nobody hears it."""
    return HTTPException(408, "the client has left")
