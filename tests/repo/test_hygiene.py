"""What no file of the project may hold."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from rto.sections.parse import known_fields

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rto", "rpo_ext")
SCRIPTS = ("ray_jobs", "examples", "benchmarks")
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".json", ".in", ""}
TOP_FILES = {path for path in ROOT.iterdir() if path.is_file()}
BANNED_KEYWORDS = {("weights_only", False), ("trust_remote_code", True), ("shell", True)}
MAX_FUNCTION_LINES = 80
MAX_FILE_LINES = 400


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def text_files() -> list[Path]:
    folders = (*PACKAGES, *SCRIPTS, "tests", "docs", "requirements", ".ci")
    inside = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return sorted(
        path
        for path in {*TOP_FILES, *inside}
        if path.suffix in TEXT and path.name != ".git" and "__pycache__" not in path.parts
    )


def banned_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Ways to run code that came with data."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system"):
            yield node.lineno, called
        for keyword in node.keywords:
            name, value = keyword.arg, keyword.value
            if isinstance(value, ast.Constant) and (name, value.value) in BANNED_KEYWORDS:
                yield node.lineno, f"{name}={value.value}"


def swallowed_errors(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Handlers that do nothing, and broad ones that do not raise."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kind = "" if node.type is None else ast.unparse(node.type)
        raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        if all(isinstance(inner, ast.Pass) for inner in node.body):
            yield node.lineno, f"except {kind}: pass"
        elif kind in ("", "Exception", "BaseException") and not raises:
            yield node.lineno, f"except {kind or 'everything'} that does not raise"


def long_functions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines"


Finder = Callable[[ast.AST], Iterator[tuple[int, str]]]
FINDERS: tuple[Finder, ...] = (banned_calls, swallowed_errors, long_functions)


@pytest.mark.parametrize("finder", FINDERS)
def test_the_code_is_clean(finder: Finder) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in python_files(*PACKAGES, *SCRIPTS)
        for line, what in finder(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("finder", "bad", "good"),
    [
        (banned_calls, "torch.load(p, weights_only=False)", "torch.load(p, weights_only=True)"),
        (banned_calls, "f(x, trust_remote_code=True)", "f(x, trust_remote_code=False)"),
        (banned_calls, "run(c, shell=True)", "run(c)"),
        (banned_calls, "eval(text)", "model.eval()"),
        (swallowed_errors, "try: f()\nexcept OSError: pass", "try: f()\nexcept OSError: g()"),
        (swallowed_errors, "try: f()\nexcept Exception: g()", "try: f()\nexcept Exception: raise"),
        (long_functions, "def f():\n" + " x\n" * 80, "def f():\n" + " x\n" * 79),
    ],
)
def test_each_finder_finds(finder: Finder, bad: str, good: str) -> None:
    assert len(list(finder(ast.parse(bad)))) == 1
    assert list(finder(ast.parse(good))) == []


@pytest.mark.parametrize(
    "banned",
    [
        r"py" + r"pi\.org",
        r"python" + r"hosted",
        r"--(extra-)?index" + r"-url",
        r"download\.py" + r"torch\.org",
        r"/wo" + r"rk/",
        r"\.\./sha" + r"red",
        r"\bTO" + r"DO\b|\bFIX" + r"ME\b",
    ],
)
def test_no_file_mentions(banned: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(banned, line)
    ]
    assert found == []


def test_every_setting_of_data_is_told() -> None:
    told = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    names = [name for name in known_fields() if name.startswith("data.")]
    assert [name for name in names if f"`{name}`" not in told] == []


def test_no_page_promises_a_packed_parquet_file() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert not re.search(r"parquet`?,? (also|each also)", text), page


def test_files_stay_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files(*PACKAGES)
    }
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def pinned() -> set[str]:
    """Names of the distributions in requirements/, normalised."""
    lines = [
        line
        for name in ("core", "cpu", "cuda", "eval", "dev", "openrlhf")
        for line in (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert [line for line in lines if "==" not in line] == []
    return {re.split(r"[\[=]", line)[0].lower().replace("_", "-") for line in lines}


def test_every_library_that_is_imported_is_pinned() -> None:
    providers = packages_distributions()
    ours = {*PACKAGES, *SCRIPTS}
    names = {
        name.split(".")[0]
        for path in python_files(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    } - {*sys.stdlib_module_names, *ours}
    pins = pinned()
    missing = {
        name
        for name in names
        if not {d.lower().replace("_", "-") for d in providers.get(name, [name])} & pins
    }
    assert missing == set()
