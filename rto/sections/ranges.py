"""What a setting may be: the range that stands in its type, and the check of a whole tree.

A numeric setting is declared with one of the types below, which say its range where it is read::

    batch_size: Count = 128

``check_tree`` compares every setting of a tree of sections with its type, whoever built the tree:
the command line, a YAML file or Python.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeGuard

from rto.errors import UserError, nearest


def require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


@dataclass(frozen=True)
class Range:
    """Bounds of a number, each included (``least``, ``most``) or not (``above``, ``below``).

    ``also`` is a value outside that has a meaning of its own. No number is infinite, or beyond what
    float32 or a 64-bit integer holds: tensors, Ray and the libraries below could not take it.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: float | None = None

    def __contains__(self, value: float) -> bool:
        if self.also is not None and value == self.also:
            return True
        return (
            holds(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """``1 or more``, ``above 0 and at most 1``, ``-1, or 1 or more``; empty for any number."""
        low, high = self.least, self.most
        bounds = [
            ("above", self.above),
            ("at least", low),
            ("at most", high),
            ("below", self.below),
        ]
        given = [f"{word} {_plain(bound)}" for word, bound in bounds if bound is not None]
        words = " and ".join(given)
        if low is not None and len(given) == 1:
            words = f"{_plain(low)} or more"
        return words if self.also is None else f"{_plain(self.also)}, or {words}"


def _plain(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def holds(value: float) -> bool:
    """Whether an int fits 64 bits, or a float is finite in float32."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return math.isfinite(value) and abs(value) <= FLOAT32_MAX


FLOAT32_MAX = 3.4028234663852886e38


@dataclass(frozen=True)
class MayBeEmpty:
    """Marks a text setting for which the empty text has a meaning."""


Number = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
AboveOne = Annotated[float, Range(above=1)]
Share = Annotated[float, Range(least=0, most=1)]
PositiveShare = Annotated[float, Range(above=0, most=1)]
Clip = Annotated[float, Range(above=0, below=1)]
"""How far below 1 a ratio may go."""
Decay = Annotated[float, Range(least=0, below=1)]
"""The factor of a moving average."""
Seconds = Annotated[float, Range(above=0, most=1e7)]
"""A time limit; 1e7 s are 115 days."""
Count = Annotated[int, Range(least=1)]
CountOrZero = Annotated[int, Range(least=0)]
"""A count for which 0 has a meaning."""
Devices = Annotated[int, Range(least=1, most=65536)]
"""Nodes, GPUs, ranks, engines."""
Every = Annotated[int, Range(least=1, also=-1)]
"""An interval of steps; -1 for never before the end."""
Seed = Annotated[int, Range(least=0, below=2**32)]
"""What numpy, torch and vLLM all take."""


FIXED = {"setting": False}
"""Metadata of a field that is no setting: no flag changes it."""


@dataclass(frozen=True)
class Section:
    """A group of settings. ``check`` holds the rules across its fields, each of them in range."""

    def check(self, prefix: str) -> None:
        """
        Args:
            prefix: what stands before a field's name where the user gave it, as ``reward.``.

        Raises:
            UserError: fields that do not go together.
        """


def check_tree(tree: Any, prefix: str = "") -> None:
    """Compare each setting below ``tree`` with its type, then each section with its own rules.

    Args:
        prefix: what stands before the names where the user gave them.

    Raises:
        UserError: ``rollout.batch_size is -1: must be 1 or more``.
    """
    for field, hint in hints(type(tree)).items():
        value = getattr(tree, field)
        if dataclasses.is_dataclass(hint):
            shown = f"{prefix}{field} is {show(value)}"
            require(isinstance(value, typing.cast(type, hint)), f"{shown}: must be a section")
            check_tree(value, f"{prefix}{field}.")
        else:
            check_value(prefix + field, hint, value)
    if isinstance(tree, Section):
        tree.check(prefix)


def check_value(shown: str, hint: Any, value: Any) -> None:
    """Refuse a value that is not of the type, or is outside its range.

    Args:
        shown: the setting's name as the message has it.

    Raises:
        UserError: one line with name, value and what would be right.
    """
    if not any(_fits(option, value) for option in options(hint)):
        raise UserError(f"{shown} is {show(value)}: {advice(hint, value)}")


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union; a type that is none stands alone."""
    if typing.get_origin(hint) is Annotated and typing.get_origin(hint.__origin__) in UNIONS:
        raise TypeError(f"{hint}: put the range on the member of the union")
    return typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)


UNIONS = (typing.Union, types.UnionType)


@functools.cache
def hints(section: type) -> dict[str, Any]:
    """Name of each setting of a section -> its type, range included. A field of a type that no
    flag can hold is none."""
    types = typing.get_type_hints(section, include_extras=True)
    return {
        field.name: types[field.name]
        for field in dataclasses.fields(section)
        if field.init and field.metadata.get("setting", True) and is_setting(types[field.name])
    }


def is_setting(hint: Any) -> bool:
    """Whether a flag can hold a value of the type; or it is a section of such types."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return issubclass(hint, Section)
    return all(_is_plain(option) for option in options(hint))


def _is_plain(hint: Any) -> bool:
    base, _ = bare(hint)
    if typing.get_origin(base) in (list, tuple):
        return all(bare(item)[0] in (int, float, str) for item in typing.get_args(base))
    return typing.get_origin(base) is Literal or base in (int, float, bool, str, type(None))


def bare(hint: Any) -> tuple[Any, Any]:
    """A type without its mark, and the mark: a ``Range``, ``MayBeEmpty`` or None."""
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__[0]
    return hint, None


def choices(hint: Any) -> list[str]:
    """The values of a setting that takes one of several, as they are written."""
    literals = [option for option in options(hint) if typing.get_origin(option) is Literal]
    return [str(choice) for option in literals for choice in typing.get_args(option)]


def advice(hint: Any, value: Any) -> str:
    """What a refused value should have been."""
    near = nearest(value, choices(hint)) if isinstance(value, str) else ""
    if near:
        return near
    if not _is_plain_number(value) or value != value:  # noqa: PLR0124 (a nan)
        return f"must be {describe(hint)}"
    if not holds(value) and any(_is_number(option) for option in options(hint)):
        return f"must be less than {FLOAT32_MAX:.2g}" if isinstance(value, float) else BELOW_2_63
    wrong_kind = isinstance(value, float) and not any(bare(x)[0] is float for x in options(hint))
    return f"must be {describe(hint, kind=wrong_kind)}"


BELOW_2_63 = "must be less than 2^63"


def describe(hint: Any, *, kind: bool = True) -> str:
    """A type in words: ``a whole number, 1 or more``; without its kind, ``1 or more``."""
    nullable = kind and type(None) in options(hint)
    named = [*choices(hint), *["null"] * nullable]
    if choices(hint):
        return f"{', '.join(named[:-1])} or {named[-1]}" if named[1:] else named[0]
    parts = [_describe(option, kind) for option in options(hint) if option is not type(None)]
    return " or ".join(parts) + "; or null" * nullable


def _describe(hint: Any, kind: bool) -> str:
    base, mark = bare(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin is tuple:
        same = describe(args[0], kind=False) if len(set(args)) == 1 else ""
        return f"{len(args)} numbers{f', each {same}' if same else ''}"
    if origin is list:
        return f"a list of {'numbers' if _is_number(args[0]) else 'texts'}"
    if base in (int, float):
        words = str(mark or "")
        if not kind and words:
            return words
        noun = "a whole number" if base is int else "a number"
        joint = (
            " " if words.startswith(("above", "below", "at ")) else ": " if "," in words else ", "
        )
        return f"{noun}{joint}{words}" if words else noun
    return {bool: "true or false", str: "a text that is not empty"}.get(base, str(base))


def show(value: Any) -> str:
    """A value on one line of bounded length, however deep, long or circular it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _Short().repr(value)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write an int of more than 4,300 digits.
        return repr(x) if abs(x) < 10**20 else "a number of more than 20 digits"


def _fits(hint: Any, value: Any) -> bool:
    base, mark = bare(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin is tuple:
        pair = isinstance(value, list | tuple) and len(value) == len(args)
        return pair and all(map(_fits, args, value))
    if origin is list:
        return isinstance(value, list | tuple) and all(_fits(args[0], item) for item in value)
    if base is str:
        filled = bool(value) or mark == MayBeEmpty()
        return isinstance(value, str) and filled and "\0" not in value
    if base is bool or base is type(None):
        return isinstance(value, base)
    return _is_plain_number(value, base) and (mark is None or value in mark)


def _is_number(hint: Any) -> bool:
    return bare(hint)[0] in (int, float)


def _is_plain_number(value: Any, base: type = float) -> TypeGuard[float]:
    kinds = int if base is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool)
