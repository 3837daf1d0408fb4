"""Command line and YAML -> RunConfig.

OpenRLHF's habits work (bare boolean flags, comma-separated lists), as do short spellings; whatever
is wrong is one line with the name, the value and the remedy.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from rto.errors import UserError, nearest
from rto.resources import shipped
from rto.secrets import hide
from rto.sections import reads
from rto.sections.foreign import explain
from rto.sections.paths import absolute_paths
from rto.sections.ranges import hints
from rto.sections.run_config import RunConfig
from rto.sections.values import from_flag, from_node
from rto.sections.yaml_settings import read_settings
from rto.text import one_line

ALIASES = {
    "algo": "algo.name",
    "loss": "preference.loss",
    "dpo_reward_scale": "algo.dpo_reward_scale",
    "dpo_reward_clip": "algo.dpo_reward_clip",
    "rpo_beta": "algo.rpo_beta",
    "authors_code": "algo.authors_code",
    "model": "generate.model",
    "prompt": "generate.prompt",
    "prompts": "generate.prompts",
    "out": "generate.out",
    "seed": "train.seed",
}
"""Short spellings of dotted names."""

VERBATIM = ("generate.prompt", "generate.stop")
"""Flags whose values add up, and are taken as they stand: a text may hold any character."""


@dataclass(frozen=True)
class Parsed:
    config: RunConfig
    dry_run: bool


@dataclass
class Given:
    """What stands on a command line: flags with their words, in order, and files."""

    flags: list[tuple[str, str, list[str]]] = field(default_factory=list)
    """The spelling that was used, the setting and the words."""
    unknown: list[tuple[str, list[str]]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    help: bool = False
    help_section: str | None = None
    dry_run: bool = False


def parse_run(command: str, argv: Sequence[str], own: ArgumentParser | None = None) -> Parsed:
    """Parse the arguments of one command into a checked configuration.

    A setting that the command and its method do not read is an error as a flag. In a file, which
    may serve several commands, it is left out and said. ``own`` are flags of the command alone,
    which its help tells too.

    Raises:
        UserError: one line with the name, the value and the remedy.
        SystemExit: after ``--help``, which prints.
    """
    given = split(argv)
    if given.help:
        from rto.sections.help import help_text

        print(help_text(command, _method_for_help(command, given), given.help_section, own))
        raise SystemExit(0)
    _refuse_unknown(command, given)
    for repeated in _given_twice(given):
        print(repeated)
    values: dict[str, Any] = {}
    from_files: set[str] = set()
    for path in given.files:
        found = _read(path)
        from_files |= found.keys()
        values |= found
    flags = _flag_values(given)
    values |= flags
    method = reads.method_of(command, values)
    _refuse_unread(command, method, given, values)
    ignored = sorted(
        name for name in from_files - flags.keys() if not reads.reads(command, method, name, values)
    )
    if ignored:
        called = f"rto {command}" if method in (None, command) else f"rto {command} with {method}"
        print(f"left out, for {called} does not read it: {', '.join(ignored)}")
    used = {name: value for name, value in values.items() if name not in ignored}
    return Parsed(config=absolute_paths(build(used)), dry_run=given.dry_run)


def split(argv: Sequence[str]) -> Given:
    """Sort the words of a command line; what each means is not looked at.

    Raises:
        UserError: a word that belongs to no flag, or to ``--config`` in another number than one.
    """
    given, tokens = Given(), list(argv)
    while tokens:
        token = tokens.pop(0)
        if token in ("-h", "--help"):
            words = _take_values(tokens)
            given.help, given.help_section = True, words[0] if words else None
            continue
        if not token.startswith("--"):
            raise UserError(f"unexpected argument {token!r}: flags are written --name value")
        spelled, equals, inline = token[2:].partition("=")
        words = [inline] if equals else _take_values(tokens)
        _refuse_dashes(words, ALIASES.get(spelled, spelled))
        name = ALIASES.get(spelled, spelled)
        if name == "config":
            given.files += [shipped(_one_word(name, words))]
        elif name == "dry_run":
            given.dry_run = from_flag("--dry_run", bool, words)
        elif name in known_fields():
            given.flags.append((spelled, name, words))
        else:
            given.unknown.append((spelled, words))
    return given


def build(values: Mapping[str, Any], base: Any = None, prefix: str = "") -> Any:
    """A RunConfig with these settings, by dotted name; the others have their defaults.

    Raises:
        UserError: a value out of its range, or settings that do not go together.
    """
    tree = RunConfig() if base is None else base
    changed: dict[str, Any] = {}
    for name, hint in hints(type(tree)).items():
        dotted = prefix + name
        if dataclasses.is_dataclass(hint):
            if any(given.startswith(f"{dotted}.") for given in values):
                changed[name] = build(values, getattr(tree, name), f"{dotted}.")
        elif dotted in values:
            changed[name] = values[dotted]
    return dataclasses.replace(tree, **changed) if changed else tree


def dump(config: RunConfig, command: str | None = None) -> str:
    """The configuration as YAML that ``--config`` loads again.

    Args:
        command: write only what this command reads with the method of the configuration.
    """
    values = flat(config)
    if command is not None:
        method = reads.method_of(command, values)
        values = {k: v for k, v in values.items() if reads.reads(command, method, k, values)}
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        inner = functools.reduce(lambda node, key: node.setdefault(key, {}), sections, tree)
        inner[last] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree, sort_keys=False)


def narrow(command: str, config: RunConfig) -> RunConfig:
    """The configuration with what the command and its method do not read at its default."""
    values = flat(config)
    method = reads.method_of(command, values)
    return build({k: v for k, v in values.items() if reads.reads(command, method, k, values)})


def flat(config: RunConfig) -> dict[str, Any]:
    """Dotted name of each setting -> its value."""
    return {name: _at(config, name) for name in known_fields()}


@functools.cache
def known_fields() -> dict[str, Any]:
    """Dotted name of each setting -> its type."""
    return dict(_walk(RunConfig, ""))


def readable(command: str) -> list[str]:
    """Every name that may follow two dashes: settings that the command reads, short spellings."""
    names = [name for name in known_fields() if reads.reads(command, None, name, {})]
    return [*names, *(short for short, name in ALIASES.items() if name in names), *COMMON]


COMMON = ("config", "dry_run")


def _read(path: str) -> dict[str, Any]:
    """The settings of a file, each in its range."""
    fields = known_fields()
    nodes = read_settings(path, fields, _near_key)
    return {name: from_node(f"{path}: {name}", fields[name], node) for name, node in nodes.items()}


def _flag_values(given: Given) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for spelled, name, words in given.flags:
        if name in VERBATIM:
            values[name] = [*values.get(name, []), *(words or [_one_word(spelled, words)])]
        else:
            values[name] = from_flag(f"--{spelled}", known_fields()[name], words)
    return values


def _given_twice(given: Given) -> Iterator[str]:
    """A line about each setting that several flags give values that differ: the last one counts,
    so that what stands behind a command of a script or a job file overrides it."""
    words: dict[str, list[list[str]]] = {}
    for _, name, value in given.flags:
        if name not in VERBATIM:
            words.setdefault(name, []).append(value)
    for name, values in words.items():
        if any(value != values[-1] for value in values):
            shown = [hide(f"--{name} {one_line(' '.join(value), 60)}".strip()) for value in values]
            yield f"given {len(values)} times, the last counts: {', '.join(shown)}"


def _refuse_unknown(command: str, given: Given) -> None:
    """All flags that do not exist, in one message."""
    said: list[str] = []
    for name, _ in given.unknown:
        told = explain(name.replace("-", "_"), command) or nearest(
            name, readable(command), shown="--{}"
        )
        said.append(f"--{name}: {told}" if told else f"--{name}")
    if said:
        raise UserError(f"unknown flag{'s' * (len(said) > 1)} {'; '.join(said)}")


def _refuse_unread(
    command: str, method: str | None, given: Given, values: Mapping[str, Any]
) -> None:
    """All flags that would change nothing, in one message."""
    said = {
        spelled: f"--{spelled} {reads.readers(command, method, name)}"
        for spelled, name, _ in given.flags
        if not reads.reads(command, method, name, values)
    }
    if said:
        raise UserError("; ".join(said.values()))


def _near_key(name: str) -> str:
    """Of a key in a file: a section's name is compared with sections."""
    if name in ALIASES:
        return f"did you mean {ALIASES[name]}?"
    depth = name.count(".") + 1
    sections = {".".join(field.split(".")[:depth]) for field in known_fields()}
    return nearest(name, sections) or nearest(name, known_fields())


def _method_for_help(command: str, given: Given) -> str | None:
    """The method that was named beside ``--help``, if any."""
    named = {name: words[-1] for _, name, words in given.flags if words}
    chooses = "preference.loss" if command == "dpo" else "algo.name"
    return reads.method_of(command, named) if chooses in named else None


def _take_values(tokens: list[str]) -> list[str]:
    values: list[str] = []
    while tokens and not tokens[0].startswith("--") and tokens[0] != "-h":
        values.append(tokens.pop(0))
    return values


def _refuse_dashes(words: list[str], name: str) -> None:
    """A flag with another dash than the keyboard's, as texts copied from a page have it, would be
    a value of the flag before it."""
    wrong = next((word for word in words if _DASHED.match(word)), None)
    if wrong is not None and name not in VERBATIM:
        raise UserError(f"unexpected {wrong!r:.60}: flags are written --name, with two hyphens")


_DASHED = re.compile(
    r"(?=.*[^-\d.])(?:-|[\u2010-\u2015\u2212\ufe58\ufe63\uff0d])+[A-Za-z][\w-]*[._]\w"
)


def _one_word(name: str, words: list[str]) -> str:
    if len(words) != 1:
        raise UserError(f"--{name} takes one value, got {len(words)}: {one_line(' '.join(words))}")
    return words[0]


def _at(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = vars(tree)[part]
    return tree


def _walk(cls: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield prefix + name, hint
