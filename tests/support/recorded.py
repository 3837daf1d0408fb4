"""A configuration that notes which of its settings are read."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from rto.sections.ranges import hints


def recorded(tree: Any, seen: set[str], prefix: str = "") -> Any:
    """The tree as an instance of subclasses that note the settings which are read."""
    fields = hints(type(tree))
    inner = {
        name: recorded(getattr(tree, name), seen, f"{prefix}{name}.")
        if dataclasses.is_dataclass(hint)
        else getattr(tree, name)
        for name, hint in fields.items()
    }
    leaves = {name for name, hint in fields.items() if not dataclasses.is_dataclass(hint)}

    def read(self: Any, name: str) -> Any:
        copied = sys._getframe(1).f_code is dataclasses.replace.__code__
        if name in leaves and not copied:
            seen.add(prefix + name)
        return object.__getattribute__(self, name)

    def unchecked(self: Any) -> None:
        """A copy with other values is not checked again: that would read everything."""

    noting: Any = type(
        "Noting", (type(tree),), {"__getattribute__": read, "__post_init__": unchecked}
    )
    found = object.__new__(noting)
    rest = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    for name, value in {**rest, **inner}.items():
        object.__setattr__(found, name, value)
    return found
