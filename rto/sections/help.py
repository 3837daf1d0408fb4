"""`rto COMMAND --help [SECTION]`: the settings that the command, and its method, read."""

from __future__ import annotations

import ast
import dataclasses
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
from rto.sections.methods import MethodSettings, installed, once_per_path
from rto.sections.names import aliases, canonical, known_fields, shared_fields, spellings
from rto.sections.parse import defaults
from rto.sections.ranges import Section, describe, hints, options, show
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
    everything = _everything()
    names = [name for name in known_fields() if reads.reads(command, method, name, everything)]
    shared = [name for name in names if name in shared_fields()]
    own_names = [name for name in names if name not in shared_fields()]
    sections = list(dict.fromkeys(name.split(".")[0] for name in shared))
    groups = {} if own is None else _own_groups(own)
    if section in groups:
        return groups[section]
    if section is not None:
        return _section_text(command, section, names, [*groups, *sections])
    called = f"rto {command}" + (f" with {method}" if method not in (None, command) else "")
    blocks = [
        f"usage: rto {command} [--config FILE.yaml] [--section.name value ...]",
        *([] if own is None else [str(own.description)]),
        _short(command, method),
        *groups.values(),
        f"Settings that {called} reads. `rto {command} --help SECTION` says more of one section.",
        *_of_methods(command, method, own_names),
        *("\n".join([_title(each), *_lines(_of(shared, each))]) for each in sections),
    ]
    return "\n\n".join(blocks)


def _section_text(command: str, section: str, names: list[str], sections: list[str]) -> str:
    chosen = [name for name in names if reads.covers(section, name)]
    if not chosen:
        hint = nearest(section, sections)
        called = f"--help {section}: no such section of `rto {command}`"
        raise UserError(f"{called}: {hint}" if hint else called)
    return "\n".join([_title(section), "", *_lines(chosen, whole=True)])


def _of_methods(command: str, method: str | None, names: list[str]) -> list[str]:
    """The method's own settings; where none is named, which methods have some."""
    if not names:
        return []
    if method is not None:
        return ["\n".join([_title(f"algo.{method}"), *_lines(names)])]
    able = dict.fromkeys(name.split(".")[1] for name in names)
    flag = "--loss" if command == "dpo" else "--algo"
    text = f"Each method has settings of its own, `rto {command} {flag} NAME --help` lists them: "
    return [textwrap.fill(f"{text}{', '.join(able)}.", WIDTH)]


def _everything() -> dict[str, str]:
    """Help lists also what acts only where another setting is given."""
    methods = [x for x in installed().methods.values() if isinstance(x, MethodSettings)]
    return {condition: "given" for each in methods for condition in each.acts_with.values()}


@once_per_path
def descriptions() -> dict[str, str]:
    """Dotted name of each setting, and of each section -> what stands below its declaration."""
    texts = _descriptions(RunConfig, "")
    for name, settings in installed().methods.items():
        kind = type(settings)
        about = " ".join((kind.__doc__ or "").split())
        titled = str(settings.card)
        same = settings.card.paper in about
        texts[f"algo.{name}"] = about if same else f"{titled}. {about}"
        texts |= _descriptions(kind, f"algo.{name}.")
    return texts


def _descriptions(cls: type, prefix: str) -> dict[str, str]:
    all_texts: dict[str, str] = {}
    texts = _attribute_texts(cls)
    for name, hint in hints(cls).items():
        if isinstance(hint, type) and issubclass(hint, Section):
            all_texts[prefix + name] = " ".join((hint.__doc__ or "").split())
            all_texts |= _descriptions(hint, f"{prefix}{name}.")
        else:
            all_texts[prefix + name] = texts.get(name, "")
    return all_texts


def _attribute_texts(cls: type) -> dict[str, str]:
    """Field -> the string below it, those of the base classes included."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
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
    return textwrap.fill(f"{section}: {descriptions().get(section, '')}", WIDTH)


def _of(names: list[str], section: str) -> list[str]:
    return [name for name in names if name.split(".")[0] == section]


def _short(command: str, method: str | None) -> str:
    lines = [
        _flag("config", "FILE.yaml", "settings from a file; flags override it"),
        _flag("dry_run", "", "check everything, print the plan, start nothing"),
    ]
    if command in reads.TRAINING:
        lines += [
            _flag("supervise", "", "start the run again from its newest checkpoint if it is lost"),
            _flag("resume", "auto", "go on with the run folder's run, or start it"),
        ]
    everything = _everything()
    for short, name in aliases().items():
        if reads.reads(command, method, name, everything):
            setting = _setting(name, method)
            text = _first_sentence(descriptions()[setting])
            shown = name if method is None or setting == "algo.name" else setting
            lines.append(_flag(short, "", f"{shown}: {text}"))
    return "\n".join(lines)


def _setting(name: str, method: str | None) -> str:
    """What a name means with this method, or with the first method that has it."""
    meant = canonical(name, method)
    return meant or next(iter(spellings()[name].values()))


def _own_groups(own: ArgumentParser) -> dict[str, str]:
    """Title of each group of flags -> its lines."""
    groups: dict[str, str] = {}
    for group in own._action_groups:
        if group._group_actions:
            lines = [f"{group.title}: {group.description}", *map(_own_flag, group._group_actions)]
            groups[str(group.title)] = "\n".join(lines)
    return groups


def _own_flag(action: Action) -> str:
    """A flag without a description of its own is a setting of `rto generate`."""
    name = action.option_strings[0].removeprefix("--")
    setting = f"generate.{name}"
    text = action.help or f"{descriptions()[setting]} Takes {describe(known_fields()[setting])}."
    default = action.default if action.default not in (None, []) else action.metavar or ""
    return _flag(name, f"{default:g}" if isinstance(default, float) else str(default), text)


def _lines(names: list[str], *, whole: bool = False) -> list[str]:
    texts, values = descriptions(), defaults()
    lines: list[str] = []
    for name in names:
        text = texts[name] if whole else _first_sentence(texts[name])
        if whole:
            text = f"{text} Takes {describe(known_fields()[name])}.{_also(name)}"
        lines.append(_flag(name, _default(name, values[name]), text))
    return lines


def _also(name: str) -> str:
    """The other spellings of a setting."""
    others = [f"--{other}" for other, meant in spellings().items() if name in meant.values()]
    return f" Also {', '.join(others)}." if others else ""


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
