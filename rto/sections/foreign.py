"""Flags of OpenRLHF, of the RTO authors' fork of it and of TRL, and what they are here.

The table is ``foreign_flags.yaml``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

OTHER = "other"
"""In a flag that depends on the command: every command that is not named."""


@functools.cache
def table() -> Mapping[str, Any]:
    text = (
        resources.files("rto.sections").joinpath("foreign_flags.yaml").read_text(encoding="utf-8")
    )
    return yaml.safe_load(text)


def renamed(name: str, command: str) -> str | None:
    """Our setting for their flag ``name``, where the value carries over as it is."""
    ours = table()["renamed"].get(name)
    return ours.get(command, ours.get(OTHER)) if isinstance(ours, dict) else ours


def explain(name: str, command: str) -> str | None:
    """What to do with another program's flag: the end of the line that refuses it.

    None for a flag that no program in the table has.
    """
    found, ours = table(), renamed(name, command)
    if ours is not None:
        return f"here --{ours}"
    if name in found["always"]:
        return "always so here, leave it out"
    if name in found["by_value"]:
        return found["by_value"][name]
    if name in found["dropped"]:
        return f"not needed here, {found['dropped'][name]}"
    if name in found["absent"]:
        return f"not available here; {found['absent'][name]}"
    return None
