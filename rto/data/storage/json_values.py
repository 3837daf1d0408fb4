"""Decode JSON values one after another from a file that may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TextIO

CHUNK = 1 << 20
"""Characters in memory at a time; a value that is longer doubles them."""
BLANK = " \t\r\n"


def as_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """
    Raises:
        ValueError: a key stands twice, so that one of its values would be lost.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return values


DECODER = json.JSONDecoder(object_pairs_hook=as_object)


def read_values(stream: TextIO) -> Iterator[object]:
    """The items of one list, or values that follow each other.

    Raises:
        ValueError: what is wrong with the JSON.
    """
    buffer = _Buffer(stream)
    if not buffer.take("["):
        while not buffer.is_empty():
            yield buffer.value()
        return
    closed = buffer.take("]")
    while not closed:
        yield buffer.value()
        closed = buffer.take("]")
        if not closed and not buffer.take(","):
            raise ValueError("no comma and no end of the list behind a row")
    if not buffer.is_empty():
        raise ValueError("text behind the end of the list")


class _Buffer:
    """The part of a text that is in memory."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._text, self._ended = stream, "", False

    def is_empty(self) -> bool:
        """Nothing but white space is left."""
        self._text = self._text.lstrip(BLANK)
        while not self._text and not self._ended:
            self._read()
            self._text = self._text.lstrip(BLANK)
        return not self._text

    def take(self, character: str) -> bool:
        """Past this character, where it is next."""
        begins = not self.is_empty() and self._text.startswith(character)
        if begins:
            self._text = self._text[1:]
        return begins

    def value(self) -> object:
        if self.is_empty():
            raise ValueError("the list has no end")
        while True:
            try:
                value, end = DECODER.raw_decode(self._text)
            except json.JSONDecodeError as error:
                if self._ended or not self._cut_off(error):
                    raise ValueError(error.msg) from error
                self._read()
            else:
                self._text = self._text[end:]
                return value

    def _cut_off(self, error: json.JSONDecodeError) -> bool:
        """The value may be whole with the text that comes next."""
        near_end = error.pos >= len(self._text) - 16
        return near_end or error.msg.startswith("Unterminated string")

    def _read(self) -> None:
        more = self._stream.read(max(CHUNK, len(self._text)))
        self._text, self._ended = self._text + more, not more
