"""YAML files of unknown origin: whatever is wrong with one is a line of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rto.errors import UserError, foreign

MAX_BYTES = 1 << 20
MAX_DEPTH = 32


def read_yaml(path: Path) -> Any:
    """The content of a UTF-8 file, in which no key stands twice and nothing is an alias.

    Raises:
        UserError: the file, the line and the fault.
    """
    with foreign(f"{path}: not YAML", "correct it"):
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: longer than {MAX_BYTES} bytes: no settings are")
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """
    Raises:
        UserError: ``where``, the line and the fault.
    """
    try:
        with foreign(f"{where}: not YAML", "correct it"):
            loader = _Strict(text)
            try:
                return loader.get_single_data()
            finally:
                loader.dispose()
    except UserError as error:
        cause = error.__cause__
        if not isinstance(cause, yaml.MarkedYAMLError) or cause.problem_mark is None:
            raise
        line = cause.problem_mark.line + 1
        raise UserError(f"{where}:{line}: not YAML: {cause.problem}: correct it") from cause


class _Strict(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.check_event(yaml.AliasEvent):
            raise _fault("an alias (*): write the value out", event.start_mark)
        if self._depth >= MAX_DEPTH:
            raise _fault(f"more than {MAX_DEPTH} levels deep", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise _fault(f"the key {key.value!a} stands twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _fault(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
