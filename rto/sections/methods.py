"""The settings of the method that a run trains with, and which methods are installed.

A method owns its settings. An entry point of the group ``rto.methods`` names a frozen dataclass, or
a value of one, whose fields are the settings ``algo.NAME.FIELD``, with their defaults, ranges and
descriptions. It is the method itself, or a ``MethodSettings`` that makes the method.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from rto.card import Card, Feedback
from rto.errors import UserError, foreign, nearest
from rto.sections.ranges import FIXED, NotNegative, Section, check_tree, check_value, hints

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.protocols import PolicyMethod
    from rto.sections.run_config import RunConfig

Method = TypeVar("Method")
Value = TypeVar("Value")

GROUP = "rto.methods"
SHARED = frozenset({"critic", "ref", "dpo"})
"""Sections that only some methods read."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Section):
    """What can be set of a method, without the libraries that the method itself needs."""

    card: Card

    uses: ClassVar[frozenset[str]] = SHARED
    """Of the sections that only some methods read, those that this one does."""
    spellings: ClassVar[Mapping[str, str]] = {}
    """Other spellings of its settings, OpenRLHF's among them -> the field. One without a dot is a
    short flag."""
    acts_with: ClassVar[Mapping[str, str]] = {}
    """A field, or a setting of a shared section -> the setting without which it changes nothing."""
    other_programs: ClassVar[Mapping[str, str]] = {}
    """Names that other programs have for the method -> what to write here."""

    metrics: ClassVar[Mapping[str, str]] = {}
    """Metric that only this method logs -> what it means, for the report."""

    def build(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod:
        """The method with these settings.

        Args:
            config: the run, for what a method reads of other sections.
            tokenizer: the policy's.

        Raises:
            ValueError: settings that the method refuses.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no method")

    def resolved(self) -> Self:
        """The settings as they act, where one of them decides about others."""
        return self

    def says(self) -> str:
        """A line for the user about what ``resolved`` changed; empty where it changed nothing."""
        return ""

    def into(self, method: type[Method], **more: Any) -> Method:
        """A method that has fields of the same names, which take these values."""
        names = {each.name for each in dataclasses.fields(method)}  # type: ignore[arg-type]
        shared = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name in names
        }
        return method(**{**shared, **more})


@dataclass(frozen=True)
class Algo(Section):
    """The method and its settings."""

    name: str = "ppo"
    """Method, as listed by `rto methods`."""
    settings: Any = field(default=None, metadata=FIXED)
    """The method's own section; its defaults when None."""
    ptx_coef: NotNegative = 0.05
    """Weight of the language-model loss on data.pretrain_dataset, where one is given."""

    def __post_init__(self) -> None:
        check_value("algo.name", str, self.name)
        settings: Any = settings_of(self.name) if self.settings is None else self.settings
        if settings.card.name != self.name:
            raise UserError(f"algo.name is {self.name!r} with settings of {settings.card}")
        object.__setattr__(self, "settings", settings)

    def check(self, prefix: str) -> None:
        check_tree(self.settings, f"{prefix}{self.name}.")


@dataclass(frozen=True)
class Installed:
    """What the entry points name: the settings of each method, with their defaults."""

    methods: Mapping[str, Any]
    broken: Mapping[str, str]
    """Method whose package cannot be loaded -> what its package says."""


def once_per_path(make: Callable[[], Value]) -> Callable[[], Value]:
    """Keeps what a function gives for each ``sys.path``, which decides what is installed."""
    kept = functools.lru_cache(maxsize=4)(lambda path: make())
    return functools.wraps(make)(lambda: kept(tuple(sys.path)))


@once_per_path
def installed() -> Installed:
    """The methods of every installed package."""
    methods: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        try:
            methods[point.name] = _load(point)
        except UserError as error:
            broken[point.name] = str(error)
    return Installed(MappingProxyType(methods), MappingProxyType(broken))


def _load(point: EntryPoint) -> Any:
    """
    Raises:
        UserError: it names something else than a frozen dataclass, or its module cannot be loaded.
    """
    shown = f"method {point.name} ({point.value})"
    with foreign(f"{shown} cannot be loaded", "mend or remove its package"):
        named = point.load()
        is_frozen = dataclasses.is_dataclass(named) and named.__dataclass_params__.frozen  # type: ignore[attr-defined]
        if not is_frozen:
            raise UserError(f"{shown} is no frozen dataclass: see docs/extending.md")
        value: Any = named() if isinstance(named, type) else named
        if value.card.name != point.name:
            raise UserError(f"{shown} calls itself {value.card.name}: give card that name")
        check_tree(value, f"algo.{point.name}.")
    return value


def settings_of(name: str) -> Any:
    """The settings of a method with their defaults.

    Raises:
        UserError: no installed package has it.
    """
    packages = installed()
    if name in packages.broken:
        raise UserError(f"algo.name is {name!r}: {packages.broken[name]}")
    if name in packages.methods:
        return packages.methods[name]
    for each in packages.methods.values():
        if isinstance(each, MethodSettings) and name in each.other_programs:
            raise UserError(f"algo.name is {name!r}: {each.other_programs[name]}")
    hint = nearest(name, packages.methods) or f"one of {', '.join(sorted(packages.methods))}"
    raise UserError(f"algo.name is {name!r}: {hint}")


def fields_of(name: str) -> dict[str, Any]:
    """Field -> type of each setting of an installed method, its own before its bases'."""
    kind = type(installed().methods[name])
    types = hints(kind)
    ordered = [each for base in kind.__mro__ for each in base.__dict__.get("__annotations__", {})]
    return {each: types[each] for each in dict.fromkeys(ordered) if each in types}


def spellings_of(name: str) -> Mapping[str, str]:
    settings = installed().methods[name]
    return settings.spellings if isinstance(settings, MethodSettings) else {}


def uses(name: str, section: str) -> bool:
    """Whether a method reads a section that only some methods read."""
    settings = _settings(name)
    return not isinstance(settings, MethodSettings) or section in settings.uses


def learns_from(name: str, feedback: Feedback) -> bool:
    """Whether a method learns from this kind of feedback, stored."""
    card: Card = _settings(name).card
    return card.feedback == feedback and "offline" in card.modes


def methods_of(command: str) -> frozenset[str]:
    """The methods that a command may run."""
    if command in ("sft", REWARD):
        return frozenset({command})
    cards: dict[str, Card] = {name: each.card for name, each in installed().methods.items()}
    modes = {"train": ("online",), "fit": ("offline",), "dpo": ("offline",)}
    wanted = modes.get(command, ("online", "offline"))
    return frozenset(
        name
        for name, card in cards.items()
        if set(wanted) & set(card.modes) and (command != "dpo" or card.feedback == "pairs")
    )


REWARD = "reward"
"""The stage that trains a reward model: its method has no settings and no entry point."""
REWARD_CARD = Card(
    REWARD, "Bradley-Terry reward model", "Bradley and Terry 1952", "pairs", ("offline",)
)


@dataclass(frozen=True, kw_only=True)
class RewardModelSettings(MethodSettings):
    """None of its own."""

    card: Card = REWARD_CARD
    uses: ClassVar[frozenset[str]] = frozenset()


def _settings(name: str) -> Any:
    return RewardModelSettings() if name == REWARD else installed().methods[name]
