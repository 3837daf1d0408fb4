"""Command line and YAML -> RunConfig.

OpenRLHF's habits work (bare boolean flags, comma-separated lists), as do short spellings; whatever
is wrong is one line with the name, the value and the remedy.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
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
from rto.sections.methods import (
    REWARD,
    Algo,
    MethodSettings,
    fields_of,
    installed,
    settings_of,
)
from rto.sections.names import (
    LOSS,
    accepted,
    aliases,
    canonical,
    known_fields,
    shared_fields,
    spellings,
)
from rto.sections.paths import absolute_paths
from rto.sections.ranges import hints, options
from rto.sections.run_config import RunConfig
from rto.sections.values import from_flag, from_node
from rto.sections.yaml_settings import read_settings
from rto.text import one_line

VERBATIM = ("generate.prompt", "generate.stop")
"""Flags whose values add up, and are taken as they stand: a text may hold any character."""


@dataclass(frozen=True)
class Parsed:
    config: RunConfig
    dry_run: bool
    supervise: bool = False


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
    supervise: bool = False


def parse_run(
    command: str,
    argv: Sequence[str],
    own: ArgumentParser | None = None,
    method: str | None = None,
) -> Parsed:
    """Parse the arguments of one command into a checked configuration.

    A setting that the command and its method do not read is an error as a flag. In a file, which
    may serve several commands, it is left out and said.

    Args:
        own: flags of the command alone, which its help tells too.
        method: of the methods of a command that runs several (`rto compare`), the one that the
            configuration is for; what only the others read is left out without a word.

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
    if given.supervise and command not in reads.TRAINING:
        raise UserError(f"--supervise starts a training run again; `rto {command}` is none")
    sources = [*(_read(path) for path in given.files), _flag_values(given)]
    values = {name: value for source in sources for name, value in source.items()}
    method = method or reads.method_of(command, values)
    if method not in (None, REWARD):
        settings_of(str(method))
    for repeated in _given_twice(given, method):
        print(repeated)
    _refuse_unread(command, method, given, values)
    unread = {name for name in values if not reads.reads(command, method, name, values)}
    _say_left_out(command, method, sorted(unread - sources[-1].keys()))
    used: dict[str, Any] = {}
    for path, source in zip([*given.files, None], sources, strict=True):
        read = {name: value for name, value in source.items() if name not in unread}
        if path is not None:
            _refuse_two_spellings(path, read, method)
        used |= _meant(read, method)
    return Parsed(absolute_paths(build(used, method)), given.dry_run, given.supervise)


def _say_left_out(command: str, method: str | None, names: Sequence[str]) -> None:
    if names:
        called = f"rto {command}" if method in (None, command) else f"rto {command} with {method}"
        print(f"left out, for {called} does not read it: {', '.join(names)}")


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
        name = aliases().get(spelled, spelled)
        _refuse_dashes(words, name)
        if name == "config":
            given.files += [shipped(_one_word(name, words))]
        elif name == "dry_run":
            given.dry_run = from_flag("--dry_run", bool, words)
        elif name == "supervise":
            _refuse_words(name, words, [])
            given.supervise = True
        elif name == "resume":
            _refuse_words(name, words, ["auto"])
            given.flags.append((spelled, "ckpt.load_enable", ["true"]))
        elif name in accepted():
            given.flags.append((spelled, name, words))
        else:
            given.unknown.append((spelled, words))
    return given


def build(values: Mapping[str, Any], method: str | None = None) -> RunConfig:
    """A RunConfig with these settings, by dotted name; the others have their defaults.

    Args:
        method: the one whose settings it holds; ``algo.name`` among the values when None.

    Raises:
        UserError: a value out of its range, or settings that do not go together.
    """
    base = RunConfig()
    sections = {name: _with(values, vars(base)[name], name) for name in hints(RunConfig)}
    name = values.get("algo.name", base.algo.name) if method in (None, REWARD) else str(method)
    settings = _with(values, settings_of(name), f"algo.{name}")
    if isinstance(settings, MethodSettings):
        settings = settings.resolved()
    algo = Algo(name, settings, values.get("algo.ptx_coef", base.algo.ptx_coef))
    return RunConfig(**{**sections, "algo": algo})


def _with(values: Mapping[str, Any], tree: Any, prefix: str) -> Any:
    """A section with those of the values that are its own; ``algo`` as it is."""
    if isinstance(tree, Algo):
        return tree
    changed: dict[str, Any] = {}
    for name, hint in hints(type(tree)).items():
        dotted = f"{prefix}.{name}"
        if dataclasses.is_dataclass(hint):
            changed[name] = _with(values, getattr(tree, name), dotted)
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
    read = {k: v for k, v in values.items() if reads.reads(command, method, k, values)}
    return build(read, method)


def flat(config: RunConfig) -> dict[str, Any]:
    """Dotted name of each setting, those of the method at hand included -> its value."""
    shared = {name: _at(config, name) for name in shared_fields()}
    return shared | _own(config.algo.name, config.algo.settings)


def defaults() -> dict[str, Any]:
    """Dotted name of each setting of every method -> its default."""
    own = [_own(name, settings) for name, settings in installed().methods.items()]
    return functools.reduce(operator.or_, own, flat(RunConfig()))


def _own(method: str, settings: Any) -> dict[str, Any]:
    return {f"algo.{method}.{name}": getattr(settings, name) for name in fields_of(method)}


def readable(command: str) -> list[str]:
    """Every name that may follow two dashes: settings that the command reads, short spellings."""
    names = [name for name in known_fields() if reads.reads(command, None, name, {})]
    short = [name for name in aliases() if reads.reads(command, None, aliases()[name], {})]
    return [*names, *short, *COMMON, *(STARTS if command in reads.TRAINING else ())]


COMMON = ("config", "dry_run")
STARTS = ("supervise", "resume")
"""Of the training commands: how a run is started, and that it goes on (`ckpt.load_enable`)."""


def _read(path: str) -> dict[str, Any]:
    """The settings of a file, each in its range."""
    fields = accepted()
    nodes = read_settings(path, fields, _near_key)
    return {name: from_node(f"{path}: {name}", fields[name], node) for name, node in nodes.items()}


def _refuse_two_spellings(path: str, values: Mapping[str, Any], method: str | None) -> None:
    """A file says each setting once; of flags, the last one counts."""
    first: dict[str, str] = {}
    for name, value in values.items():
        setting = canonical(name, method)
        if setting is None or value is None:
            continue
        other = first.setdefault(setting, name)
        if other != name:
            raise UserError(f"{path}: {other} and {name} are one setting with {method}: give one")


def _meant(values: Mapping[str, Any], method: str | None) -> dict[str, Any]:
    """The same by the names of settings. What this method has none of is left out, and null in
    another spelling, where it means the method's own."""
    meant = {canonical(name, method): value for name, value in values.items()}
    return {
        name: value
        for name, value in meant.items()
        if name is not None and (value is not None or type(None) in options(known_fields()[name]))
    }


def _flag_values(given: Given) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for spelled, name, words in given.flags:
        if name in VERBATIM:
            values[name] = [*values.get(name, []), *(words or [_one_word(spelled, words)])]
        else:
            values[name] = from_flag(f"--{spelled}", accepted()[name], words)
    return values


def _given_twice(given: Given, method: str | None) -> Iterator[str]:
    """A line about each setting that several flags give values that differ: the last one counts,
    so that what stands behind a command of a script or a job file overrides it."""
    words: dict[str, list[tuple[str, list[str]]]] = {}
    for _, name, value in given.flags:
        if name not in VERBATIM:
            words.setdefault(canonical(name, method) or name, []).append((name, value))
    for values in words.values():
        if any(value != values[-1][1] for _, value in values):
            shown = [hide(f"--{x} {one_line(' '.join(value), 60)}".strip()) for x, value in values]
            yield f"given {len(values)} times, the last counts: {', '.join(shown)}"


def _refuse_unknown(command: str, given: Given) -> None:
    """All flags that do not exist, in one message."""
    said: list[str] = []
    for name, _ in given.unknown:
        told = explain(name.replace("-", "_"), command) or nearest(
            name, [*readable(command), *spellings()], shown="--{}"
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
    if name in aliases():
        return f"did you mean {aliases()[name]}?"
    depth = name.count(".") + 1
    sections = {".".join(field.split(".")[:depth]) for field in accepted()}
    return nearest(name, sections) or nearest(name, accepted())


def _method_for_help(command: str, given: Given) -> str | None:
    """The method that was named beside ``--help``, if any."""
    named = {name: words[-1] for _, name, words in given.flags if words}
    chooses = LOSS if command == "dpo" else "algo.name"
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


def _refuse_words(name: str, words: list[str], known: list[str]) -> None:
    """Of a flag that is written in one way alone."""
    if words != known:
        given = one_line(" ".join([name, *words]), 60)
        raise UserError(f"--{given}: write --{' '.join([name, *known])}")


def _one_word(name: str, words: list[str]) -> str:
    if len(words) != 1:
        raise UserError(f"--{name} takes one value, got {len(words)}: {one_line(' '.join(words))}")
    return words[0]


def _at(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = vars(tree)[part]
    return tree
