"""Rewards from a server: OpenRLHF's remote reward protocol, with deadlines and strict answers.

A request is ``{"query": [...], "prompts": [...], "labels": [...]}``, an answer
``{"rewards": [...]}``. Temporary errors are retried; an answer that breaks the protocol ends the
run. No reward is ever made up.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal, TypeVar

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from rto.errors import RewardProtocolError, UserError, told
from rto.scoring.finite import finite_rewards
from rto.secrets import filled, holds_secret, shown_url, without
from rto.text import one_line

RESPONSE_CAP = 1 << 20
"""Longest answer, in bytes."""

_SHELL_VARIABLE = re.compile(r"=\$([A-Za-z_]\w*)(?=[&#]|$)")
"""A variable as a shell has it, for a value of a query: a quote kept it from the shell."""

BACKOFF = wait_random_exponential(multiplier=0.25, max=15)
BREAKER = 3
"""Requests in a row that may fail for good before the server is given up."""
UNLIMITED = httpx.Limits(max_connections=None)
"""A request that waits for a connection would use up its time."""

Result = TypeVar("Result")


class PassingFault(Exception):
    """A fault that may be gone at the next try, and how many seconds the server asked to wait."""

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
        raise PassingFault(told(error)) from error


def check_passing(response: httpx.Response) -> None:
    """Raise ``PassingFault`` where the server is busy or broken: 429 and 5xx."""
    status = response.status_code
    if status == 429 or status >= 500:
        wait = retry_after(response.headers.get("Retry-After"), now=time.time())
        raise PassingFault(f"status {status}", wait)


def next_wait(state: RetryCallState, backoff: Callable[[RetryCallState], float]) -> float:
    """Seconds until the next try: the backoff, or what the server asked for where that is longer.

    A server that asks for none (``Retry-After: 0``, a date that has passed) is not asked at once.
    """
    fault = _fault(state)
    asked = fault.wait if isinstance(fault, PassingFault) else None
    return max(asked or 0.0, backoff(state))


async def in_parallel(calls: Sequence[Coroutine[None, None, Result]]) -> list[Result]:
    """What all return, in their order; the first exception ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def read_capped(response: httpx.Response, cap: int) -> bytes | None:
    """The body as it was sent; None where it is longer than ``cap`` bytes."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > cap:
            return None
    return bytes(content)


def check_url(url: str, *, setting: str, remedy: str) -> str:
    """The URL to ask: ``${NAME}`` in it stands for the environment variable of that name.

    Raises:
        UserError: no http(s) address, or one that holds a secret, which is not shown.
    """
    shown = shown_url(url)
    parsed = _parsed(url, setting=setting, shown=shown)
    # httpx escapes what no host may hold, as an open bracket.
    if parsed.scheme not in ("http", "https") or not parsed.host or "%" in parsed.host:
        raise UserError(f"{setting} {shown}: needs http:// or https:// and a host")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise UserError(f"{setting} {shown}: port {parsed.port}: must be from 1 to 65535")
    plain = _SHELL_VARIABLE.search(url)
    if plain:
        name = plain[1]
        raise UserError(f"{setting} {shown}: ${name} is no variable here: write ${{{name}}}")
    if parsed.userinfo or holds_secret(url):
        raise UserError(f"{setting} {shown}: put no credentials into the URL: {remedy}")
    return str(parsed)


def _parsed(url: str, *, setting: str, shown: str) -> httpx.URL:
    """With the environment's variables in it."""
    try:
        return httpx.URL(filled(url))
    except KeyError as error:
        raise UserError(f"{setting} {shown}: {error.args[0]} is not set: export it") from error
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise UserError(f"{setting} {ascii(shown)}: {without(str(error))}") from error


@dataclass(frozen=True)
class RemoteReward:
    """A reward server, which is sent ``concurrency`` requests at once.

    ``timeout`` bounds each request in seconds, its retries included, from when it is first sent.
    A call of n queries ends within ``timeout`` times
    ceil(ceil(n / ``batch_size``) / ``concurrency``). One attempt may take half of ``timeout``, so
    that a request lost by the server is sent again. ``${NAME}`` in ``url`` stands for an
    environment variable.
    """

    url: str = field(repr=False)
    token: str | None = field(repr=False)
    timeout: float
    batch_size: int
    concurrency: int = 8
    on_failure: Literal["stop", "drop_group"] = "stop"

    def __post_init__(self) -> None:
        self._address()
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise UserError("the reward server's token holds characters that no HTTP header can")
        if self.timeout <= 0 or self.batch_size < 1 or self.concurrency < 1:
            raise UserError(
                f"reward.remote_timeout {self.timeout}, reward.remote_batch_size "
                f"{self.batch_size} and reward.remote_concurrency {self.concurrency}: must be "
                "positive"
            )

    @property
    def name(self) -> str:
        """The endpoint as messages show it: without the values of its query string."""
        return f"reward server {shown_url(self.url)}"

    def __str__(self) -> str:
        return self.name

    def _address(self) -> str:
        return check_url(
            self.url,
            setting="reward.remote_url",
            remedy="write ?name=${VARIABLE} with an environment variable, or give a bearer token "
            "in the one that reward.remote_token_env names",
        )

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
    ) -> list[float | None]:
        """One finite reward per query, in their order; ``queries`` are prompt plus response.

        None stands for a reward whose request failed for good, where ``on_failure`` is
        ``drop_group``; there is none where it is ``stop``.

        Raises:
            RewardProtocolError: no valid answer; names the endpoint and the first bad item. With
                ``drop_group``: ``BREAKER`` requests in a row had none.
        """
        return asyncio.run(self._all(queries, prompts, labels))

    async def _all(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
    ) -> list[float | None]:
        gate, failed = asyncio.Semaphore(self.concurrency), 0

        async def one(start: int) -> Sequence[float | None]:
            nonlocal failed
            rows = slice(start, start + self.batch_size)
            payload = {
                "query": list(queries[rows]),
                "prompts": list(prompts[rows]),
                "labels": list(labels[rows]),
            }
            async with gate:
                try:
                    rewards = await self._rewards(client, payload, first=start)
                except RewardProtocolError as error:
                    failed += 1
                    if self.on_failure == "stop":
                        raise
                    if failed >= BREAKER:
                        raise RewardProtocolError(
                            f"{error}; {failed} requests in a row failed, so no more are sent"
                        ) from error
                    return [None] * len(payload["query"])
            failed = 0
            return rewards

        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        async with httpx.AsyncClient(
            headers=headers, timeout=self.timeout / 2, limits=UNLIMITED
        ) as client:
            starts = range(0, len(queries), self.batch_size)
            parts = await in_parallel([one(start) for start in starts])
        return [reward for part in parts for reward in part]

    async def _rewards(
        self, client: httpx.AsyncClient, payload: Mapping[str, Sequence[str | None]], *, first: int
    ) -> list[float]:
        content = await self._persist(client, json.dumps(payload).encode())
        count = len(payload["query"])
        try:
            return _read_rewards(content, count=count, source=self.name, first=first)
        except RewardProtocolError as error:
            raise RewardProtocolError(self._without_secrets(str(error))) from error

    async def _persist(self, client: httpx.AsyncClient, payload: bytes) -> bytes:
        """One request, tried until it is answered or its time is up."""
        faults: list[PassingFault] = []
        began = time.monotonic()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PassingFault),
            wait=_wait,
            stop=stop_before_delay(self.timeout),
            after=lambda state: _note(state, faults),
            reraise=True,
        )
        try:
            async with asyncio.timeout(self.timeout):
                return await retrying(self._attempt, client, payload)
        except (PassingFault, TimeoutError) as error:
            raise RewardProtocolError(
                f"{self.name}: {self._given_up(faults, time.monotonic() - began)}"
            ) from error

    def _given_up(self, faults: Sequence[PassingFault], elapsed: float) -> str:
        asked = faults[-1].wait if faults else None
        if asked and elapsed + asked >= self.timeout:
            return (
                f"{faults[-1]} after {elapsed:.1f} s, and it asks to wait {asked:g} s more: beyond "
                f"reward.remote_timeout {self.timeout:g} s, so try later or raise that"
            )
        last = self._without_secrets(str(faults[-1])) if faults else "none ended"
        return (
            f"no answer within reward.remote_timeout {self.timeout:g} s "
            f"({len(faults)} failed attempts; last: {last})"
        )

    def _without_secrets(self, text: str) -> str:
        """What a server said, which may repeat the token and the variables in its URL."""
        address = self._address()
        secrets = [] if address == str(httpx.URL(self.url)) else _values(address)
        return without(text, self.token, *secrets)

    async def _attempt(self, client: httpx.AsyncClient, payload: bytes) -> bytes:
        limit = self.timeout / 2
        with passing_faults(limit):
            async with (
                asyncio.timeout(limit),
                client.stream("POST", self._address(), content=payload) as response,
            ):
                content = await self._read(response)
        self._check_status(response, content)
        return content

    async def _read(self, response: httpx.Response) -> bytes:
        content = await read_capped(response, RESPONSE_CAP)
        if content is None:
            raise RewardProtocolError(
                f"{self.name}: the answer is longer than {RESPONSE_CAP} bytes: "
                "lower reward.remote_batch_size"
            )
        return content

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
            said = self._without_secrets(ascii(content[:200])[2:-1])
            raise RewardProtocolError(f"{self.name}: status {status}: {said}")


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


def _note(state: RetryCallState, faults: list[PassingFault]) -> None:
    fault = _fault(state)
    if isinstance(fault, PassingFault):
        faults.append(fault)


def _wait(state: RetryCallState) -> float:
    return next_wait(state, BACKOFF)


def _values(url: str) -> list[str]:
    """The values of a URL's query, which a server may repeat."""
    return [value for _, value in httpx.URL(url).params.multi_items()]


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """For ``json.loads``: refuse an object that has a key twice, because its meaning is ambiguous.

    Raises:
        ValueError: names the key.
    """
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {ascii(key)[:60]} stands twice")
        found[key] = value
    return found


def _read_rewards(content: bytes, *, count: int, source: str, first: int) -> list[float]:
    try:
        answer = json.loads(content, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        start = without(ascii(content[:80])[2:-1])
        raise RewardProtocolError(
            f"{source}: the answer is not JSON ({told(error)}): {start!r}"
        ) from error
    if not isinstance(answer, dict) or "rewards" not in answer:
        raise RewardProtocolError(f"{source}: the answer holds no 'rewards'")
    if answer.get("error"):
        said = one_line(ascii(answer["error"]), 200)
        raise RewardProtocolError(f"{source}: the answer tells of an error beside rewards: {said}")
    return finite_rewards(answer["rewards"], count=count, source=source, first=first)
