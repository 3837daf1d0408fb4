"""Names of settings: which exist, what their values may be, and which spelling means which.

A setting of a method is ``algo.NAME.FIELD``. The method may give it other spellings, which mean the
same field of whichever method runs: ``algo.kl.init_coef`` is ``algo.ppo.kl_coef`` with PPO.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Optional

from rto.sections import methods
from rto.sections.methods import once_per_path
from rto.sections.ranges import hints
from rto.sections.run_config import RunConfig

CHOOSES = {"algo": "algo.name", "loss": "preference.loss"}
SHORT = {
    "model": "generate.model",
    "prompt": "generate.prompt",
    "prompts": "generate.prompts",
    "out": "generate.out",
    "seed": "train.seed",
}
"""Short spellings of settings; methods have others, which stand between these two in help."""

LOSS = "preference.loss"
"""What `rto dpo` calls ``algo.name``: a file may name the methods of two commands."""


@functools.cache
def shared_fields() -> dict[str, Any]:
    """Dotted name of each setting that is no method's own -> its type."""
    return dict(_walk(RunConfig, ""))


@once_per_path
def known_fields() -> dict[str, Any]:
    """Dotted name of each setting, those of the installed methods included -> its type."""
    own = {
        f"algo.{method}.{name}": hint
        for method in methods.installed().methods
        for name, hint in methods.fields_of(method).items()
    }
    return shared_fields() | own


@once_per_path
def spellings() -> Mapping[str, Mapping[str, str]]:
    """Other spelling of a method's setting -> method -> the setting."""
    by_spelling: dict[str, dict[str, str]] = {}
    for method in methods.installed().methods:
        for spelling, name in methods.spellings_of(method).items():
            by_spelling.setdefault(spelling, {})[method] = f"algo.{method}.{name}"
    return by_spelling


@once_per_path
def aliases() -> dict[str, str]:
    """Each short flag -> a longer name of it."""
    own = {name: _longer(name) for name in spellings() if "." not in name}
    return CHOOSES | own | SHORT


@once_per_path
def accepted() -> dict[str, Any]:
    """Every name that a file may hold, and a flag with two dashes -> the type of its value."""
    fields = known_fields()
    losses: Any = Literal[tuple(sorted(methods.methods_of("dpo")))]  # type: ignore[valid-type]
    others: dict[str, Any] = {
        name: Optional[fields[next(iter(meant.values()))]]  # noqa: UP045 (a type that is a value)
        for name, meant in spellings().items()
        if "." in name
    }
    return {**fields, **others, LOSS: losses}


def canonical(name: str, method: str | None) -> str | None:
    """The setting that a name means with this method; None where the method has none of it."""
    if name == LOSS:
        return "algo.name"
    if name in known_fields():
        return name
    return spellings().get(name, {}).get(str(method))


def owners(name: str) -> frozenset[str] | None:
    """The methods that a setting is of, however it is spelled; None for one that is no method's."""
    if name in spellings():
        return frozenset(spellings()[name])
    return None if name in shared_fields() or name == LOSS else frozenset({name.split(".")[1]})


def _longer(short: str) -> str:
    """Another spelling of the same, which has dots; or the setting of the first method."""
    meant = spellings()[short]
    same = (name for name, other in spellings().items() if "." in name and other == meant)
    return next(same, next(iter(meant.values())))


def _walk(cls: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield prefix + name, hint
