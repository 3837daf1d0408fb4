"""Client of a chat model behind an OpenAI-compatible endpoint, with concurrent requests.

Temporary errors are retried. Answers are kept in a file, so that a run that ended early does not
pay for an answer twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from rto.data.templates import Message
from rto.errors import JudgeError, UserError, foreign
from rto.scoring.http import (
    PassingFault,
    check_passing,
    check_url,
    in_parallel,
    next_wait,
    passing_faults,
    read_capped,
)
from rto.secrets import shown_url, without
from rto.tracking.run_folder import write_atomic

LONGEST_WAIT = 60.0
"""Seconds: a longer Retry-After is cut to this."""
ANSWER_CAP = 8 << 20
"""Longest answer, in bytes."""


@dataclass(frozen=True)
class Usage:
    """Tokens that the endpoint says it read and wrote, and answers taken from the file instead."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_asked: int = 0
    num_kept: int = 0

    def cost(self, prices: tuple[float, float]) -> float:
        """In the currency of ``prices``: per million tokens read, and written."""
        return (self.prompt_tokens * prices[0] + self.completion_tokens * prices[1]) / 1e6

    def __add__(self, other: Usage) -> Usage:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Usage(*(a + b for a, b in pairs))


Progress = Callable[[int, int, Usage], None]
"""Answers so far, answers in all, what they took."""


@dataclass(frozen=True)
class Endpoint:
    """``options`` join the body of each request; ``timeout`` bounds one attempt, in seconds."""

    url: str = field(repr=False)
    model: str
    key: str | None = field(repr=False)
    key_env: str = "OPENAI_API_KEY"
    options: Mapping[str, object] = field(default_factory=dict)
    timeout: float = 120.0
    attempts: int = 6
    concurrency: int = 8
    backoff: float = 1.0

    def __post_init__(self) -> None:
        self._address()
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise UserError(f"the key in {self.key_env} holds characters that no HTTP header can")
        if self.timeout <= 0 or self.concurrency < 1 or self.attempts < 1:
            raise UserError("--judge_timeout and --judge_concurrency must be positive")

    @property
    def name(self) -> str:
        """As messages show it: without the values of its query string."""
        return f"judge {self.model} at {shown_url(self.url)}"

    def _address(self) -> httpx.URL:
        """Where completions are asked for; a query (as Azure's api-version) stays at its end."""
        remedy = f"the key is read from {self.key_env}"
        url = httpx.URL(check_url(self.url, setting="--judge_url", remedy=remedy))
        return url.copy_with(path=f"{url.path.rstrip('/')}/chat/completions")

    def ask(
        self, conversations: Sequence[list[Message]], *, kept: Path, progress: Progress
    ) -> tuple[list[str], Usage]:
        """The answer to each conversation, and what they took.

        Raises:
            JudgeError: a request was refused, or had no answer after all attempts.
        """
        return asyncio.run(self._all(conversations, _Kept(kept), progress))

    async def _all(
        self, conversations: Sequence[list[Message]], kept: _Kept, progress: Progress
    ) -> tuple[list[str], Usage]:
        headers = {"Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        gate, usage, done = asyncio.Semaphore(self.concurrency), Usage(), 0

        async def one(conversation: list[Message]) -> str:
            nonlocal usage, done
            body = {"model": self.model, "messages": conversation, **self.options}
            body = {name: value for name, value in body.items() if value is not None}
            mark = hashlib.sha256(json.dumps([self.url, body]).encode()).hexdigest()
            text, spent = kept.get(mark), Usage(num_kept=1)
            if text is None:
                async with gate:
                    text, spent = await self._persist(client, body)
                kept.add(mark, text)
            usage, done = usage + spent, done + 1
            progress(done, len(conversations), usage)
            return text

        async with httpx.AsyncClient(headers=headers, timeout=self.timeout) as client:
            texts = await in_parallel([one(each) for each in conversations])
        return texts, usage

    async def _persist(
        self, client: httpx.AsyncClient, body: dict[str, object]
    ) -> tuple[str, Usage]:
        """One request, tried until it is answered or its attempts are used up."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PassingFault),
            wait=self._wait,
            stop=stop_after_attempt(self.attempts),
            reraise=True,
        )
        try:
            return await retrying(self._attempt, client, body)
        except PassingFault as error:
            raise JudgeError(
                f"{self.name}: no answer in {self.attempts} attempts, the last: {error}; what was "
                "answered is kept, give the same command again to go on"
            ) from error

    async def _attempt(
        self, client: httpx.AsyncClient, body: dict[str, object]
    ) -> tuple[str, Usage]:
        with passing_faults(self.timeout):
            async with (
                asyncio.timeout(self.timeout),
                client.stream("POST", self._address(), json=body) as response,
            ):
                content = await read_capped(response, ANSWER_CAP)
        if content is None:
            raise JudgeError(f"{self.name}: the answer is longer than {ANSWER_CAP} bytes")
        self._check_status(response, content)
        return _read(content)

    def _check_status(self, response: httpx.Response, content: bytes) -> None:
        check_passing(response)
        status = response.status_code
        if status in (401, 403):
            given = "was refused" if self.key else "is missing"
            raise JudgeError(
                f"{self.name}: status {status}, the key {given}: set the environment variable "
                f"{self.key_env}, or name another one with --judge_key_env"
            )
        if status != 200:
            said = self._shown(content[:1000].decode("utf-8", "replace")[:300])
            raise JudgeError(f"{self.name}: status {status}: {said}")

    def _shown(self, text: str) -> str:
        """What the server said on one line, without the key, should it repeat that."""
        shown = ascii(text)[1:-1]
        return without(shown, self.key)

    def _wait(self, state: RetryCallState) -> float:
        backoff = wait_random_exponential(multiplier=self.backoff, max=LONGEST_WAIT)
        return min(next_wait(state, backoff), LONGEST_WAIT)


class _Kept:
    """Answers on disk: a JSON line each, by the digest of what was asked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[str, str] = {}
        whole, cut = self._read() if path.is_file() else ("", "")
        if cut:
            # A crash ended the last line: what it answered is asked again.
            write_atomic(path, f"{whole}\n" if whole else "")

    def _read(self) -> tuple[str, str]:
        """Take the answers of the file; its whole lines, and what stands after them."""
        with foreign(f"{self._path}: damaged", "remove it, and what it holds is asked again"):
            whole, _, cut = self._path.read_text(encoding="utf-8").rpartition("\n")
            for line in whole.splitlines():
                row = json.loads(line)
                self._texts[str(row["asked"])] = str(row["text"])
        return whole, cut

    def get(self, mark: str) -> str | None:
        return self._texts.get(mark)

    def add(self, mark: str, text: str) -> None:
        self._texts[mark] = text
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"asked": mark, "text": text}) + "\n")


def _read(answer: bytes) -> tuple[str, Usage]:
    """The first choice's text; none at all, as of a refusal, is an empty one."""
    try:
        content = json.loads(answer)
        text = content["choices"][0]["message"]["content"]
        used = content.get("usage") or {}
        spent = Usage(int(used.get("prompt_tokens", 0)), int(used.get("completion_tokens", 0)), 1)
    except (
        ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        start = ascii(answer[:80])[2:-1]
        raise PassingFault(f"not a chat completion: {start}") from error
    if text is not None and not isinstance(text, str):
        raise PassingFault(f"not a chat completion: content is a {type(text).__name__}")
    return text or "", spent
