"""Command line and YAML -> RunConfig. jsonargparse does the typing, merging and help.

What is added here: OpenRLHF's habits (bare boolean flags, comma-separated lists), the short
spellings of the papers' users, and an error with the nearest name for anything unknown.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from rto.config import RunConfig
from rto.errors import UserError
from rto.paths import absolute_paths, split_list
from rto.resources import shipped

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

REPLACED = {
    "rpo_alpha": "TRL's SFT term on the chosen response is --preference.nll_loss_coef",
    "gt_reward_scale": "NVIDIA's name; write --algo.reward_aware.eta",
    "ref_policy_kl_penalty": "NVIDIA's name; write --algo.reward_aware.beta",
}
"""Flags of other programs, with what they are called here."""

VERBATIM = ("generate.prompt", "generate.stop")
"""Flags whose values add up, and are taken as they stand: a text may hold any character."""


@dataclass(frozen=True)
class Parsed:
    config: RunConfig
    dry_run: bool


def parse_run(command: str, argv: Sequence[str]) -> Parsed:
    """Parse the arguments of one command into a checked configuration.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    parser = build_parser(command)
    try:
        namespace = parser.parse_args(normalise(argv))
        built = parser.instantiate(namespace)
    except ArgumentError as error:
        raise UserError(_one_line(str(error))) from error
    sections = {f.name: built[f.name] for f in dataclasses.fields(RunConfig)}
    return Parsed(config=absolute_paths(RunConfig(**sections)), dry_run=built["dry_run"])


def build_parser(command: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"rto {command}", exit_on_error=False, allow_abbrev=False, default_env=False
    )
    parser.add_argument("--config", action="config", help="YAML file; flags override it")
    parser.add_argument(
        "--dry_run",
        type=bool,
        default=False,
        help="check everything, print the plan, start nothing",
    )
    parser.add_class_arguments(RunConfig, None)
    return parser


def dump(config: RunConfig) -> str:
    """The configuration as YAML that ``--config`` loads again."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


@functools.cache
def known_fields() -> dict[str, Any]:
    """Dotted name of each leaf -> its type."""
    return dict(_walk(RunConfig, ""))


def normalise(argv: Sequence[str]) -> list[str]:
    """Flags in the field's spellings -> flags that jsonargparse reads; unknown ones are errors.

    Files come first, so that a flag overrides them wherever it stands.
    """
    fields = known_fields()
    files: list[str] = []
    result: list[str] = []
    texts: dict[str, list[str]] = {}
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if token in ("-h", "--help"):
            result.append("--help")
            continue
        if not token.startswith("--"):
            raise UserError(f"unexpected argument {token!r}: flags are written --name value")
        name, equals, inline = token[2:].partition("=")
        name = ALIASES.get(name, name)
        values = [inline] if equals else _take_values(tokens)
        if name == "config":
            path = shipped(_single(name, values))
            _check_config_file(path)
            files.append(f"--config={path}")
            continue
        if name != "dry_run" and name not in fields:
            hint = f": {REPLACED[name]}" if name in REPLACED else nearest(name, prefix="--")
            raise UserError(f"unknown flag --{name}{hint}")
        if name in VERBATIM:
            texts.setdefault(name, []).extend(values or [_single(name, values)])
            continue
        hint = bool if name == "dry_run" else fields.get(name, str)
        value = _value(name, hint, values)
        _check_choice(f"--{name}", hint, value)
        result.append(f"--{name}={value}")
    given = [f"--{name}={_yaml_list(values)}" for name, values in texts.items()]
    return [*files, *result, *given]


def nearest(name: str, *, prefix: str) -> str:
    """The end of an error about an unknown name: the nearest one that exists, if any is near."""
    known = [*known_fields(), *ALIASES, "config", "dry_run"]
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return f": did you mean {prefix}{near[0]}?" if near else ""


def _check_choice(shown: str, hint: Any, value: object) -> None:
    """Refuse a value that is not among those a field takes, where they can be counted."""
    literals = (option for option in _options(hint) if typing.get_origin(option) is typing.Literal)
    choices = [str(choice) for literal in literals for choice in typing.get_args(literal)]
    if not choices or value is None or str(value) in [*choices, "null"]:
        return
    near = difflib.get_close_matches(str(value), choices, 1, 0.6)
    advice = f"did you mean {near[0]}?" if near else f"expected {', '.join(choices)}"
    raise UserError(f"{shown} is {str(value)!r:.60}: {advice}")


def _take_values(tokens: list[str]) -> list[str]:
    values: list[str] = []
    while tokens and not tokens[0].startswith("--"):
        values.append(tokens.pop(0))
    return values


def _single(name: str, values: list[str]) -> str:
    if len(values) != 1:
        raise UserError(f"--{name} takes one value, got {len(values)}: {' '.join(values)}")
    return values[0]


def _value(name: str, hint: Any, values: list[str]) -> str:
    if hint is bool and not values:
        return "true"
    if not _is_list(hint):
        return _single(name, values)
    if len(values) == 1 and values[0].startswith("["):
        return values[0]
    if not values:
        raise UserError(f"--{name} needs at least one value")
    items = [item for value in values for item in split_list(value)]
    if items == ["null"]:
        return "null"
    numeric = float in typing.get_args(hint) or "float" in str(hint)
    return f"[{', '.join(items)}]" if numeric else _yaml_list(items)


def _yaml_list(items: list[str]) -> str:
    """The strings, whatever is in them, as a YAML list on one line."""
    return yaml.safe_dump(items, default_flow_style=True, width=float("inf")).strip()


def _is_list(hint: Any) -> bool:
    return any(typing.get_origin(option) in (list, tuple) for option in _options(hint))


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union; a type that is none stands alone."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _walk(cls: type, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        hint, name = hints[item.name], prefix + item.name
        if dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast(type, hint), name + ".")
        else:
            yield name, hint


def _check_config_file(path: str) -> None:
    if not Path(path).is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"--config {path}: not YAML: {_one_line(str(error))}") from error
    if content is None:
        raise UserError(f"--config {path}: the file is empty")
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: expected sections like `actor:`, got {content!r:.60}")
    for name, value in _leaves(content, ""):
        if name not in known_fields():
            raise UserError(f"{path}: unknown key {name}{nearest(name, prefix='')}")
        _check_choice(f"{path}: {name}", known_fields()[name], value)


def _leaves(content: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    sections = {name.rsplit(".", depth)[0] for name in known_fields() for depth in (1, 2)}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name in sections:
            yield from _leaves(value, name + ".")
        else:
            yield name, value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())
