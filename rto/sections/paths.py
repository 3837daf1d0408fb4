"""Paths of a configuration, made absolute where the command was given.

An actor may run in another folder, or as a process that another folder started. The home folder is
written ``~``.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from rto.errors import foreign
from rto.sections.ranges import show

FILES = frozenset(
    {
        "ckpt.output_dir",
        "data.cache_dir",
        "ds.config",
        "generate.out",
        "generate.prompts",
        "plan.from_run",
        "reward.func_path",
    }
)
"""Settings that are paths, whether anything is there or not."""

FILES_OR_HUB_IDS = frozenset(
    {
        "actor.model_name_or_path",
        "critic.model_name_or_path",
        "ref.model_name_or_path",
        "reward.model_name_or_path",
        "dpo.model_name_or_path",
        "dpo.ref_model_name_or_path",
        "generate.model",
        "data.prompt_dataset",
        "data.dataset",
        "data.eval_dataset",
        "data.feedback",
        "data.pretrain_dataset",
        "data.chat_template",
    }
)
"""Settings that are a path where something is there, and may be a name of the hub else."""

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

Config = TypeVar("Config")


def is_hub_id(text: str) -> bool:
    """Whether a name is written as the hub's are; a path may be, too."""
    return HUB_ID.fullmatch(text) is not None


def absolute_paths(config: Config, prefix: str = "") -> Config:
    """The configuration with each path absolute. Names of the hub stay what they are."""
    changed: dict[str, Any] = {}
    for each in fields(config):  # type: ignore[arg-type]
        name, value = f"{prefix}{each.name}", vars(config)[each.name]
        if is_dataclass(value):
            changed[each.name] = absolute_paths(value, f"{name}.")
        elif name in FILES | FILES_OR_HUB_IDS:
            with foreign(f"{name} is {show(value)}", "give another path"):
                changed[each.name] = _absolute(value, hub=name in FILES_OR_HUB_IDS)
    return replace(config, **changed)  # type: ignore[type-var]


def absolute_path(text: str, *, hub: bool = True) -> str:
    """The path from the root on, with the home folder for ``~``. Where it may be a name of the
    ``hub``, one that nothing is at stays a name, unless it is written as a path."""
    path = os.path.expanduser(text)
    if "://" in text or (hub and not _is_path(text, path)):
        return text
    return os.path.abspath(path)


def _require_possible(path: str) -> None:
    """
    Raises:
        OSError: nothing can be at this path: a name is too long, a link leads back to itself.
    """
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise


def _is_path(text: str, path: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or text in (".", "..") or os.path.lexists(path)


def _absolute(value: Any, *, hub: bool) -> Any:
    for each in value if isinstance(value, list) else [value] if isinstance(value, str) else []:
        _require_possible(os.path.expanduser(each))
    if isinstance(value, str):
        return absolute_path(value, hub=hub)
    return [absolute_path(each, hub=hub) for each in value] if isinstance(value, list) else value


def split_list(text: str) -> list[str]:
    """The items between commas; a comma in the name of a file that is there separates nothing."""
    parts = text.split(",")
    items: list[str] = []
    while parts:
        names = (",".join(parts[:size]) for size in range(len(parts), 1, -1))
        item = next((name for name in names if _is_there(name)), parts[0])
        items.append(item)
        del parts[: item.count(",") + 1]
    return items


def _is_there(name: str) -> bool:
    return os.path.lexists(os.path.expanduser(name))
