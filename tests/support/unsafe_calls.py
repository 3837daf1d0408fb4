"""Calls that run what a file, a server or a model says, found in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rto", "rpo_ext", "ray_jobs", "examples")
UNPICKLES = frozenset(
    f"{module}.{name}"
    for module in ("pickle", "cloudpickle", "dill", "joblib", "marshal", "_pickle")
    for name in ("load", "loads", "Unpickler")
)
SHELLS = frozenset({"os.system", "os.popen"})
YAML = frozenset({"yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"})
BUILTINS = frozenset({"eval", "exec"})
KEYWORDS = {"shell": True, "trust_remote_code": True, "weights_only": False}
"""Argument -> the value that it must not have."""


def unsafe(source: str) -> Iterator[tuple[int, str]]:
    """(line, what is wrong there)."""
    names = dict(_imported(source))
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = _dotted(node.func, names)
        given = {each.arg: each.value for each in node.keywords}
        if called in UNPICKLES | SHELLS | YAML | BUILTINS:
            yield node.lineno, called
        if called == "torch.load" and not _is(given.get("weights_only"), True):
            yield node.lineno, "torch.load without weights_only=True"
        for name, value in KEYWORDS.items():
            if _is(given.get(name), value):
                yield node.lineno, f"{name}={value}"


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _imported(source: str) -> Iterator[tuple[str, str]]:
    """(name here, what it stands for)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """``b.load`` as ``pickle.load`` after ``import pickle as b``; empty for what has no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return ""


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
