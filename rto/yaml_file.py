"""YAML files of unknown origin: whatever is wrong with one is a line of its name."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import yaml

from rto.errors import UserError, foreign

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
Loads = TypeVar("Loads", bound=yaml.SafeLoader)
Content = TypeVar("Content")


def read_yaml(path: Path) -> object:
    """The content of a UTF-8 file, in which no key stands twice and nothing is an alias.

    Raises:
        UserError: the file, the line and the fault.
    """
    return parse_yaml(read_text(path, str(path)), str(path))


def parse_yaml(text: str, where: str) -> object:
    """
    Raises:
        UserError: ``where``, the line and the fault.
    """
    return _loaded(text, where, _Strict, _Strict.get_single_data)


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """The nodes of a text, which no tag, alias or number has been made an object of; None of an
    empty one.

    Raises:
        UserError: ``where``, the line and the fault.
    """
    return _loaded(text, where, _Bounded, _Bounded.get_single_node)


def read_text(path: Path, where: str) -> str:
    """
    Raises:
        UserError: ``where``: no file that can be read, one that is too large, or not UTF-8.
    """
    with foreign(f"{where}: cannot be read", "correct it"):
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{where}: longer than {MAX_BYTES} bytes: no settings are")
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 (byte {error.start}): save it with that encoding"
        ) from error


def _loaded(text: str, where: str, kind: type[Loads], get: Callable[[Loads], Content]) -> Content:
    try:
        with foreign(f"{where}: not YAML", "correct it"):
            loader = kind(text)
            try:
                return get(loader)
            finally:
                loader.dispose()
    except UserError as error:
        cause = error.__cause__
        if not isinstance(cause, yaml.MarkedYAMLError) or cause.problem_mark is None:
            raise
        line = cause.problem_mark.line + 1
        raise UserError(f"{where}:{line}: not YAML: {cause.problem}: correct it") from cause


class _Bounded(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._depth >= MAX_DEPTH:
            mark = self.peek_event().start_mark
            raise _fault(f"more than {MAX_DEPTH} levels deep", mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Strict(_Bounded):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise _fault("an alias (*): write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise _fault(f"the key {key.value!a} stands twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _fault(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
