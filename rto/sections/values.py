"""Text of the command line, and nodes of a YAML file -> the values that settings take.

A setting's type decides what its text means; no reader guesses. So ``1:30`` is no number, ``1e-5``
is one, and a text that YAML would take for something else has to be in quotes.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from typing import Any, Literal

import yaml

from rto.errors import UserError, foreign
from rto.sections.paths import split_list
from rto.sections.ranges import advice, bare, check_value, choices, options, show

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WHOLE = re.compile(r"[+-]?[0-9]{1,25}")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?\.?(inf|nan)", re.I)
TAG = "tag:yaml.org,2002:"
RETYPED = {"bool": "a boolean", "int": "a number", "float": "a number", "timestamp": "a date"}
"""What YAML takes some texts for that are not in quotes."""


def from_flag(shown: str, hint: Any, values: Sequence[str]) -> Any:
    """The value of a flag that was given with these words.

    Raises:
        UserError: one line with the flag, the value and what would be right.
    """
    if not values and bool in options(hint):
        return True
    of_list = [option for option in options(hint) if is_list(option)]
    if not of_list:
        if len(values) != 1:
            listed = f": {' '.join(values)}" if values else ""
            raise UserError(f"{shown} takes one value, got {len(values)}{listed}")
        return checked(shown, hint, from_text(hint, values[0]))
    if not values:
        raise UserError(f"{shown} needs at least one value")
    if len(values) == 1 and values[0].startswith("[") and values[0].endswith("]"):
        with foreign(f"{shown} is {show(values[0])}", "write a list as a,b or [a, b]"):
            node = yaml.compose(values[0], Loader=yaml.SafeLoader)
        return from_node(shown, hint, node)
    words = [word for value in values for word in split_list(value)]
    if words == ["null"]:
        return checked(shown, hint, None)
    inner = typing.get_args(bare(of_list[0])[0])[0]
    return checked(shown, hint, [from_text(inner, word) for word in words])


def from_node(shown: str, hint: Any, node: Any) -> Any:
    """The value of a setting in a YAML file.

    Raises:
        UserError: one line with the setting, the value and what would be right.
    """
    if isinstance(node, yaml.ScalarNode):
        return checked(shown, hint, _scalar(shown, hint, node))
    lists = [bare(option)[0] for option in options(hint) if is_list(option)]
    if not isinstance(node, yaml.SequenceNode) or not lists or node.tag != f"{TAG}seq":
        raise UserError(f"{shown} is {written(node)}: {advice(hint, None)}")
    inner = typing.get_args(lists[0])[0]
    for item in node.value:
        if not isinstance(item, yaml.ScalarNode):
            raise UserError(f"{shown} holds {written(item)}: {advice(hint, None)}")
    return checked(shown, hint, [_scalar(shown, inner, item) for item in node.value])


def from_text(hint: Any, text: str) -> Any:
    """The value that the text stands for; the text itself where it stands for none."""
    plain = [bare(option)[0] for option in options(hint)]
    if type(None) in plain and text == "null":
        return None
    for option in plain:
        if typing.get_origin(option) is Literal:
            matches = [choice for choice in typing.get_args(option) if str(choice) == text]
            if matches:
                return matches[0]
    if bool in plain and text.lower() in BOOLEANS:
        return BOOLEANS[text.lower()]
    if int in plain and WHOLE.fullmatch(text):
        return int(text)
    if float in plain and DECIMAL.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def checked(shown: str, hint: Any, value: Any) -> Any:
    """The value in its range, a list as the tuple that a pair is."""
    if isinstance(value, list) and any(
        typing.get_origin(bare(option)[0]) is tuple for option in options(hint)
    ):
        value = tuple(value)
    check_value(shown, hint, value)
    return value


def is_list(hint: Any) -> bool:
    return typing.get_origin(bare(hint)[0]) in (list, tuple)


def written(node: Any) -> str:
    """What stands in the file, for a message: no more than a few words of it."""
    if isinstance(node, yaml.ScalarNode):
        return show(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _scalar(shown: str, hint: Any, node: yaml.ScalarNode) -> Any:
    kind = node.tag.removeprefix(TAG)
    if kind not in (*RETYPED, "null", "str"):
        raise UserError(f"{shown} is {show(node.value)} with the tag {kind}: leave the tag out")
    if node.style is not None:
        return node.value if _is_text(hint) else from_text(hint, node.value)
    if kind == "null":
        return None
    if kind in RETYPED and _is_text(hint):
        raise UserError(
            f"{shown} is {show(node.value)}, which YAML takes for {RETYPED[kind]}: a text like "
            "that stands in quotes"
        )
    return from_text(hint, node.value)


def _is_text(hint: Any) -> bool:
    return str in [bare(option)[0] for option in options(hint)] and not choices(hint)
