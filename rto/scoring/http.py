"""Rewards from a server: OpenRLHF's remote reward protocol, with deadlines and strict answers.

A request is ``{"query": [...], "prompts": [...], "labels": [...]}``, an answer
``{"rewards": [...]}``. Faults that pass are retried; an answer that breaks the protocol ends the
run. No reward is ever made up.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from rto.errors import RewardProtocolError, UserError
from rto.scoring.combine import finite_rewards

RESPONSE_CAP = 1 << 20
"""Longest answer, in bytes."""

BACKOFF = wait_random_exponential(multiplier=0.25, max=15)


class PassingFault(Exception):
    """A fault that may be gone at the next try, and how long the server asked to wait."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@contextmanager
def passing_faults(limit: float) -> Iterator[None]:
    """Makes a time-out, after ``limit`` seconds, or a lost connection a ``PassingFault``."""
    try:
        yield
    except (TimeoutError, httpx.TimeoutException) as error:
        raise PassingFault(f"no answer after {limit:g} s") from error
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise PassingFault(f"{type(error).__name__}: {error}") from error


def check_passing(response: httpx.Response) -> None:
    """Raise ``PassingFault`` where the server is busy or broken: 429 and 5xx."""
    status = response.status_code
    if status == 429 or status >= 500:
        wait = retry_after(response.headers.get("Retry-After"), now=time.time())
        raise PassingFault(f"status {status}", wait)


def asked_wait(state: RetryCallState) -> float | None:
    """Seconds that the server asked for with its last fault."""
    fault = _fault(state)
    return fault.wait if isinstance(fault, PassingFault) else None


@dataclass(frozen=True)
class RemoteReward:
    """A reward server. ``timeout`` bounds each request in seconds, its retries included.

    One attempt may take half of ``timeout``, so that a request lost by the server is sent again.
    """

    url: str
    token: str | None = field(repr=False)
    timeout: float
    batch_size: int

    def __post_init__(self) -> None:
        url = _parse_url(self.url)
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError(
                f"reward.remote_url {_shown(url)}: needs http:// or https:// and a host"
            )
        if url.userinfo:
            raise UserError(
                f"reward.remote_url {_shown(url)}: put no credentials into the URL, give a bearer "
                "token in the environment variable that reward.remote_token_env names"
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise UserError("the reward server's token holds characters that no HTTP header can")
        if self.timeout <= 0 or self.batch_size < 1:
            raise UserError(
                f"reward.remote_timeout {self.timeout} and reward.remote_batch_size "
                f"{self.batch_size}: must be positive"
            )

    @property
    def name(self) -> str:
        """The endpoint as messages show it: without its query string."""
        return f"reward server {_shown(_parse_url(self.url))}"

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
    ) -> list[float]:
        """One finite reward per query; ``queries`` are prompt plus response.

        Raises:
            RewardProtocolError: no valid answer; names the endpoint and the first bad item.
        """
        return asyncio.run(self._all(queries, prompts, labels))

    async def _all(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
    ) -> list[float]:
        rewards: list[float] = []
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        async with httpx.AsyncClient(headers=headers, timeout=self.timeout / 2) as client:
            for start in range(0, len(queries), self.batch_size):
                rows = slice(start, start + self.batch_size)
                payload = {
                    "query": list(queries[rows]),
                    "prompts": list(prompts[rows]),
                    "labels": list(labels[rows]),
                }
                content = await self._persist(client, json.dumps(payload).encode())
                count = len(payload["query"])
                rewards += _read_rewards(content, count=count, source=self.name, first=start)
        return rewards

    async def _persist(self, client: httpx.AsyncClient, payload: bytes) -> bytes:
        """One request, tried until it is answered or its time is up."""
        faults: list[str] = []
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PassingFault),
            wait=_wait,
            stop=stop_before_delay(self.timeout),
            after=lambda state: faults.append(str(_fault(state))),
            reraise=True,
        )
        try:
            async with asyncio.timeout(self.timeout):
                return await retrying(self._attempt, client, payload)
        except (PassingFault, TimeoutError) as error:
            raise RewardProtocolError(
                f"{self.name}: no answer within reward.remote_timeout {self.timeout:g} s "
                f"({len(faults)} failed attempts; last: {faults[-1] if faults else 'none ended'})"
            ) from error

    async def _attempt(self, client: httpx.AsyncClient, payload: bytes) -> bytes:
        limit = self.timeout / 2
        with passing_faults(limit):
            async with (
                asyncio.timeout(limit),
                client.stream("POST", self.url, content=payload) as response,
            ):
                content = await self._read(response)
        self._check_status(response, content)
        return content

    async def _read(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > RESPONSE_CAP:
                raise RewardProtocolError(
                    f"{self.name}: the answer is longer than {RESPONSE_CAP} bytes: "
                    "lower reward.remote_batch_size"
                )
        return bytes(content)

    def _check_status(self, response: httpx.Response, content: bytes) -> None:
        check_passing(response)
        status = response.status_code
        if status in (401, 403):
            given = "was refused" if self.token else "is missing"
            raise RewardProtocolError(
                f"{self.name}: status {status}, the bearer token {given}: set the environment "
                "variable that reward.remote_token_env names"
            )
        if response.is_redirect:
            raise RewardProtocolError(
                f"{self.name}: status {status}, redirects are not followed: give the final URL"
            )
        if status != 200:
            raise RewardProtocolError(f"{self.name}: status {status}: {ascii(content[:200])[2:-1]}")


def retry_after(header: str | None, *, now: float) -> float | None:
    """Seconds that a Retry-After header (a number or an HTTP date) asks for; None without one."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _fault(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _wait(state: RetryCallState) -> float:
    asked = asked_wait(state)
    return BACKOFF(state) if asked is None else asked


def _read_rewards(content: bytes, *, count: int, source: str, first: int) -> list[float]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        start = ascii(content[:80])[2:-1]
        raise RewardProtocolError(f"{source}: the answer is not JSON: {start!r}") from error
    if not isinstance(answer, dict) or "rewards" not in answer:
        raise RewardProtocolError(f"{source}: the answer holds no 'rewards'")
    return finite_rewards(answer["rewards"], count=count, source=source, first=first)


def _parse_url(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"reward.remote_url {ascii(url)}: {error}") from error


def _shown(url: httpx.URL) -> str:
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))
