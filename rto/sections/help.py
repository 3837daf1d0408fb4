"""`rto COMMAND --help [SECTION]`: the settings that the command, and its method, read."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import textwrap
from argparse import Action, ArgumentParser
from pathlib import Path
from typing import Any

from rto.errors import UserError, nearest
from rto.sections import reads
from rto.sections.parse import ALIASES, flat, known_fields
from rto.sections.ranges import describe, hints, options, show
from rto.sections.run_config import RunConfig

WIDTH = 100


def help_text(
    command: str, method: str | None, section: str | None, own: ArgumentParser | None = None
) -> str:
    """All settings, a line or two each; or those of one section, with their ranges. The flags that
    the command alone has, ``own``, are sections by the names of their groups, and come first.

    Raises:
        UserError: no such section, or none of its settings is read.
    """
    names = [name for name in known_fields() if reads.reads(command, method, name, EVERYTHING)]
    sections = list(dict.fromkeys(name.split(".")[0] for name in names))
    groups = {} if own is None else _own_groups(own)
    if section in groups:
        return groups[section]
    if section is not None:
        chosen = [name for name in names if reads.covers(section, name)]
        if not chosen:
            hint = nearest(section, [*groups, *sections])
            called = f"--help {section}: no such section of `rto {command}`"
            raise UserError(f"{called}: {hint}" if hint else called)
        return "\n".join([_title(section), "", *_lines(chosen, whole=True)])
    called = f"rto {command}" + (f" with {method}" if method not in (None, command) else "")
    blocks = [
        f"usage: rto {command} [--config FILE.yaml] [--section.name value ...]",
        *([] if own is None else [str(own.description)]),
        _short(names),
        *groups.values(),
        f"Settings that {called} reads. `rto {command} --help SECTION` says more of one section.",
        *("\n".join([_title(each), *_lines(_of(names, each))]) for each in sections),
    ]
    return "\n\n".join(blocks)


EVERYTHING = {reads.TOKEN_REWARD: "given"}
"""Help lists also what acts only where another setting is given."""


@functools.cache
def descriptions() -> dict[str, str]:
    """Dotted name of each setting, and of each section -> what stands below its declaration."""
    return _descriptions(RunConfig, "")


def _descriptions(cls: type, prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    texts = _attribute_texts(cls)
    for name, hint in hints(cls).items():
        if isinstance(hint, type) and hint.__module__.startswith("rto.sections."):
            found[prefix + name] = " ".join((hint.__doc__ or "").split())
            found |= _descriptions(hint, f"{prefix}{name}.")
        else:
            found[prefix + name] = texts.get(name, "")
    return found


def _attribute_texts(cls: type) -> dict[str, str]:
    """Field -> the string below it, those of the base classes included."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("rto.sections."):
            continue
        body = _classes(base.__module__)[base.__name__].body
        for statement, below in zip(body, body[1:], strict=False):
            match statement, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    texts[name] = " ".join(text.split())
    return texts


@functools.cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    file = Path(str(inspect.getsourcefile(importlib.import_module(module))))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _title(section: str) -> str:
    return f"{section}: {descriptions().get(section, '')}"


def _of(names: list[str], section: str) -> list[str]:
    return [name for name in names if name.split(".")[0] == section]


def _short(names: list[str]) -> str:
    lines = [
        _flag("config", "FILE.yaml", "settings from a file; flags override it"),
        _flag("dry_run", "", "check everything, print the plan, start nothing"),
    ]
    texts = descriptions()
    for short, name in ALIASES.items():
        if name in names:
            lines.append(_flag(short, "", f"{name}: {_first_sentence(texts[name])}"))
    return "\n".join(lines)


def _own_groups(own: ArgumentParser) -> dict[str, str]:
    """Title of each group of flags -> its lines."""
    found: dict[str, str] = {}
    for group in own._action_groups:
        if group._group_actions:
            lines = [f"{group.title}: {group.description}", *map(_own_flag, group._group_actions)]
            found[str(group.title)] = "\n".join(lines)
    return found


def _own_flag(action: Action) -> str:
    """A flag without a description of its own is a setting of `rto generate`."""
    name = action.option_strings[0].removeprefix("--")
    setting = f"generate.{name}"
    text = action.help or f"{descriptions()[setting]} Takes {describe(known_fields()[setting])}."
    default = action.default if action.default not in (None, []) else action.metavar or ""
    return _flag(name, f"{default:g}" if isinstance(default, float) else str(default), text)


def _lines(names: list[str], *, whole: bool = False) -> list[str]:
    texts, defaults = descriptions(), flat(RunConfig())
    lines: list[str] = []
    for name in names:
        text = texts[name] if whole else _first_sentence(texts[name])
        if whole:
            text = f"{text} Takes {describe(known_fields()[name])}."
        lines.append(_flag(name, _default(name, defaults[name]), text))
    return lines


def _first_sentence(text: str) -> str:
    return re.split(r"(?<! al)\. (?=[A-Z])", text)[0].rstrip(".")


def _default(name: str, value: Any) -> str:
    if value is None or value == [] or value == "":
        return ""
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" for item in value)
    if isinstance(value, bool) or bool in options(known_fields()[name]):
        return show(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flag(name: str, default: str, text: str) -> str:
    head = f"  --{name} {default}".rstrip()
    indent = " " * 44
    body = textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return head + body[len(head) :] if len(head) < len(indent) - 1 else f"{head}\n{body}"
