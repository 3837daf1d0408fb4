"""The training command inside a shell script: read, never run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from rto.errors import UserError

ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)$", re.DOTALL)
VARIABLE = re.compile(r"\$\{(\w+)(?:\[(@|\*|\d+)\])?\}|\$(\w+)")
QUOTED_ARRAY = re.compile(r'"\$\{(\w+)\[@\]\}"')
STOPS = frozenset(";&|<>")
NESTED = 5
"""Variables within variables are followed this deep."""


@dataclass(frozen=True)
class Call:
    """The words of one call, from the program's name on, with the script's variables filled in."""

    words: tuple[str, ...]
    unset: tuple[str, ...] = ()
    """Variables in it that the script does not set, or sets to what only a shell can tell."""


@dataclass
class _Script:
    values: dict[str, list[str]] = field(default_factory=dict)

    def assign(self, name: str, text: str) -> None:
        is_array = text.startswith("(")
        inner = text[1 : text.rfind(")")] if is_array and ")" in text else text
        if "$(" in inner or "`" in inner:
            return
        try:
            words = [self.fill(word) for word in split(inner)]
        except UserError:
            return  # Where the call needs it, it is named as unset.
        self.values[name] = words if is_array else [" ".join(words)]

    def fill(self, text: str) -> str:
        for _ in range(NESTED):
            filled = VARIABLE.sub(self._value, QUOTED_ARRAY.sub(self._words, text))
            if filled == text:
                break
            text = filled
        return text

    def _words(self, match: re.Match[str]) -> str:
        return shlex.join(self.values[match[1]]) if match[1] in self.values else match[0]

    def _value(self, match: re.Match[str]) -> str:
        name, index = match[1] or match[3], match[2]
        values = self.values.get(name)
        if values is None:
            return match[0]
        if index in ("@", "*"):
            return " ".join(values)
        place = int(index or 0)
        return values[place] if place < len(values) else ""


def find_calls(text: str, program: re.Pattern[str]) -> list[Call]:
    """The calls of programs whose name, a word of its own, matches; in the script's order."""
    script, found = _Script(), []
    for line in statements(text):
        assigned = ASSIGNMENT.match(line)
        is_call = any(program.search(word) for word in script.fill(line).split())
        if assigned is not None and not is_call:
            script.assign(assigned[1], assigned[2].strip())
            continue
        if not is_call:
            continue
        words = split(script.fill(line))
        place = next((i for i, word in enumerate(words) if program.search(word)), None)
        if place is not None:
            call = tuple(words[place:])
            unset = {m[1] or m[3] for word in call for m in VARIABLE.finditer(word)}
            found.append(Call(call, tuple(sorted(unset))))
    return found


def statements(text: str) -> Iterator[str]:
    """The script's lines, continued ones joined and arrays whole; no comments, no blank lines."""
    pending = ""
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("#"):
            line = bare = ""
        if bare.endswith("\\"):
            pending += bare[:-1] + " "
            continue
        pending += bare
        opened = ASSIGNMENT.match(pending)
        if opened is not None and opened[2].startswith("(") and ")" not in opened[2]:
            pending += " "
            continue
        if pending.strip():
            yield pending.strip()
        pending = ""
    if pending.strip():
        yield pending.strip()


def split(line: str) -> list[str]:
    """Words as a shell cuts them, up to the first `;`, `&`, `|`, `<` or `>`; variables stay.

    Raises:
        UserError: a quotation mark without its partner.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    try:
        for word in lexer:
            if word and set(word) <= STOPS:
                break
            words.append(word)
    except ValueError as error:
        raise UserError(f"cannot read the script's line {line!r:.80}: {error}") from error
    return words
