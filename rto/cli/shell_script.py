"""The training command inside a shell script: read, never run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from rto.errors import UserError

ASSIGNMENT = re.compile(
    r"^\s*(?:(?:export|local|declare|readonly)\s+)?([A-Za-z_]\w*)\+?=(.*)$", re.DOTALL
)
NEXT = re.compile(r"^\s*(?:if|then|else|elif|do|while|until|time|!|\{|\()\s+")
"""Words of a shell that a command may stand behind."""
COMMAND_OUTPUT = re.compile(r"\$\(\([^()]*\)\)|\$\([^()]*\)|`[^`]*`")
PIECE = re.compile(
    r"""(?P<comment>(?<!\S)\#.*) | (?P<joint>;|&&|\|\|?) | \\. | "(?:\\.|[^"\\])*" | '[^']*'
      | \([^()]*\) | .""",
    re.VERBOSE | re.DOTALL,
)
"""Of a line: what stands in quotes or parentheses is one piece."""
OUTPUT = "\ue000"
"""Stands for what only a shell can tell: the output of a command, a sum."""
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

    def assign(self, line: str) -> bool:
        """Take a line that assigns; False for another."""
        match = ASSIGNMENT.match(line)
        if match is None:
            return False
        name, text = match[1], match[2].strip()
        more = line[: match.start(2)].endswith("+=")
        if text.startswith("("):
            self._assign(name, text, more)
            return True
        try:
            words = split(line)
        except UserError:
            return True  # Where the call needs it, it is named as unset.
        for word in words:
            name, equals, value = word.partition("=")
            if equals:
                self._assign(name.removesuffix("+"), shlex.quote(value) if value else "", more)
        return True

    def _assign(self, name: str, text: str, more: bool) -> None:
        is_array = text.startswith("(")
        inner = text[1 : text.rfind(")")] if is_array and ")" in text else text
        if OUTPUT in inner:
            self.values.pop(name, None)
            return
        try:
            words = [self.fill(word) for word in split(inner)]
        except UserError:
            return  # Where the call needs it, it is named as unset.
        before = self.values.get(name, []) if more else []
        if is_array:
            self.values[name] = [*before, *words]
        else:
            self.values[name] = ["".join([*before, " ".join(words)])]

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
    for line in (part for whole in statements(text) for part in commands(_without_output(whole))):
        is_call = any(program.search(word) for word in script.fill(line).split())
        if not is_call:
            script.assign(line)
            continue
        call = _call(split(script.fill(line)), program)
        if call is not None:
            found.append(call)
    return found


def _call(words: list[str], program: re.Pattern[str]) -> Call | None:
    """From the program's name on; None if no word is that."""
    place = next((i for i, word in enumerate(words) if program.search(word)), None)
    if place is None:
        return None
    call = tuple(words[place:])
    unset = {m[1] or m[3] for word in call for m in VARIABLE.finditer(word)}
    return Call(call, tuple(sorted(unset)))


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


def _without_output(line: str) -> str:
    for _ in range(NESTED):
        line = COMMAND_OUTPUT.sub(OUTPUT, line)
    return line


def commands(line: str) -> Iterator[str]:
    """The commands that `;`, `&&`, `||` or `|` join in a line, without `if`, `then` and so on."""
    part = ""
    for piece in PIECE.finditer(line):
        if piece["joint"]:
            yield from _bare(part)
            part = ""
        elif not piece["comment"]:
            part += piece[0]
    yield from _bare(part)


def _bare(part: str) -> Iterator[str]:
    part = part.strip()
    while NEXT.match(part):
        part = NEXT.sub("", part, count=1)
    if part:
        yield part


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
                return words[:-1] if _names_a_stream(words, word, line) else words
            words.append(word)
    except ValueError as error:
        raise UserError(f"cannot read the script's line {line!r:.80}: {error}") from error
    return words


def _names_a_stream(words: list[str], stop: str, line: str) -> bool:
    """Whether the last word is the number of a stream that is sent elsewhere, as in `2>&1`."""
    if not words or not words[-1].isdigit():
        return False
    return re.search(rf"(?<!\S){words[-1]}{re.escape(stop)}", line) is not None
