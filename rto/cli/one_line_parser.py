"""argparse for the commands that have flags of their own: what is wrong is one line of ours."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NoReturn

from rto.errors import UserError, nearest


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of an argument that is a whole number within these bounds, both included."""

    def parse(text: str) -> int:
        if re.fullmatch(r"-?[0-9]{1,12}", text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r:.60}: a whole number from {least} to {most}")

    return parse


def named(text: str) -> str:
    """The type of an argument that names a place: an empty one, as a variable that is not set
    leaves it, names none, and not the folder that the command runs in."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: names nothing")
    return text


class OneLineParser(argparse.ArgumentParser):
    """Raises ``UserError`` where argparse prints its usage and ends the program. A program that is
    no command of `rto` puts its own name before the line and has none here."""

    unknown_hint = ""
    """The end of the message about an argument that is near to none."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            near = nearest(unknown[1], self._flags())
            message = f"unknown argument {unknown[1]}{f': {near}' if near else self.unknown_hint}"
        raise UserError(": ".join(filter(None, [self.prog.removeprefix("rto "), message])))

    def _flags(self) -> list[str]:
        """Those of its commands too: argparse leaves it to the whole to say what none knows."""
        commands = [x for x in self._actions if isinstance(x, argparse._SubParsersAction)]
        parsers = [self, *(parser for x in commands for parser in x.choices.values())]
        return [flag for parser in parsers for flag in parser._option_string_actions]
