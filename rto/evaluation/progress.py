"""How far a judge's endpoint has come, and what it has cost."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from rto.evaluation.endpoint import Usage

EVERY = 10.0
"""Seconds between lines where the output is no terminal."""


class EndpointProgress:
    """A live line on a terminal, a line every ten seconds anywhere else, and one at the end."""

    def __init__(self, name: str, console: Console, prices: tuple[float, float] | None) -> None:
        self._name, self._console, self._prices = name, console, prices
        self._status: Status | None = None
        self._line = ""
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status(f"{self._name}: asking")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
        if self._line:
            self._print()

    def __call__(self, done: int, total: int, usage: Usage) -> None:
        self._line = self.line(done, total, usage)
        if self._status is not None:
            self._status.update(self._line)
        elif time.monotonic() - self._printed >= EVERY:
            self._print()

    def line(self, done: int, total: int, usage: Usage) -> str:
        kept = f" ({usage.num_kept} from an earlier run)" if usage.num_kept else ""
        cost = "" if self._prices is None else f", cost {usage.cost(self._prices):.4f}"
        return (
            f"{self._name}: {done} of {total} judgements{kept}, {usage.prompt_tokens:,} tokens "
            f"read, {usage.completion_tokens:,} written{cost}"
        )

    def _print(self) -> None:
        self._console.print(self._line, markup=False, highlight=False, soft_wrap=True)
        self._printed = time.monotonic()
