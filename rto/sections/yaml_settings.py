"""A YAML file of settings, read as foreign input: names of settings with their nodes.

The nodes are not turned into Python objects before a setting asks for its own: aliases that double
themselves, tags and numbers of any length cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from rto.errors import UserError, foreign
from rto.sections.values import written
from rto.text import one_line
from rto.yaml_file import compose_yaml, read_text


def read_settings(path: str, known: Collection[str], near: Callable[[str], str]) -> dict[str, Any]:
    """Dotted name of each setting in the file -> its YAML node.

    Args:
        known: the names that exist.
        near: what is said of a name that is not known; empty where nothing is.

    Raises:
        UserError: one line with the file and, where there is one, the setting.
    """
    root = _compose(path)
    nodes: dict[str, Any] = {}
    lines: dict[str, int] = {}
    sections = {name.rsplit(".", depth)[0] for name in known for depth in (1, 2)} - set(known)
    for name, node, line in _entries(path, root, "", sections):
        if name in lines:
            raise UserError(f"{path}: {name} stands twice, in lines {lines[name]} and {line}")
        lines[name] = line
        if name in sections:
            continue
        if name not in known:
            hint = near(name)
            raise UserError(f"{path}: unknown key {name}{f': {hint}' if hint else ''}")
        nodes[name] = node
    return nodes


def _compose(path: str) -> Any:
    where = f"--config {one_line(path, 200)}"
    file = Path(path).expanduser()
    with foreign(where, "name a YAML file"):
        is_file = file.is_file()
        is_there = file.exists()
    if not is_file:
        kind = "a folder" if is_there and file.is_dir() else "no regular file"
        raise UserError(f"{where}: {kind if is_there else 'no such file'}: name a YAML file")
    root = compose_yaml(read_text(file, where), where)
    if root is None:
        raise UserError(f"--config {path}: the file is empty")
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"--config {path}: expected sections like `actor:`, got {written(root)}")
    return root


def _entries(
    path: str, mapping: yaml.MappingNode, prefix: str, sections: Collection[str]
) -> Iterator[tuple[str, Any, int]]:
    """Name, node and line of each key, those of the sections within included."""
    if mapping.tag != "tag:yaml.org,2002:map":
        shown = mapping.tag.removeprefix("tag:yaml.org,2002:")
        line = mapping.start_mark.line + 1
        raise UserError(
            f"{path}: line {line}: {prefix.rstrip('.') or 'the file'} has the tag {shown!a:.60}: "
            "leave the tag out"
        )
    for key, node in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            raise UserError(f"{path}: line {line}: a key is the name of a setting")
        name = f"{prefix}{key.value}"
        yield name, node, key.start_mark.line + 1
        if name not in sections:
            continue
        if isinstance(node, yaml.MappingNode):
            yield from _entries(path, node, f"{name}.", sections)
        elif node.tag != "tag:yaml.org,2002:null":
            raise UserError(
                f"{path}: {name} is {written(node)}: a section holds settings, one a line"
            )
