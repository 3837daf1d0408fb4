"""Every metric that this code base can log is explained: its names are read from the source."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from rto.report.meanings import PREFIXES, meaning, meanings

ROOT = Path(__file__).resolve().parents[2]
LOGGED_FROM = (
    "rto/functional",
    "rto/methods",
    "rto/training",
    "rto/tracking",
    "rto/cluster",
    "rto/runs",
    "rto/observe.py",
    "rto/loop.py",
    "rpo_ext",
)
NO_METRICS = {"{seed}/{epoch}", "{self._done}/{self._total}", "{done}/{total}"}
CHECKED_BEFORE_THE_RUN = "check/"
"""Figures of the self-check go to a log file and have no chart."""
NAME = re.compile(r"[a-z_]+/[a-z0-9_]+")


@functools.cache
def trees() -> list[ast.Module]:
    paths = [ROOT / place for place in LOGGED_FROM]
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    return [ast.parse(file.read_text(encoding="utf-8")) for file in files]


def template(node: ast.JoinedStr) -> str:
    """f"{self.area}/lr" as it is written."""
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"  # pyright: ignore[reportAttributeAccessIssue]
        for part in node.values
    )


def strings(tree: ast.AST) -> Iterator[str]:
    """Constants that are no part of an f-string."""
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield node.value


def keys(function: ast.AST) -> set[str]:
    """Names without a slash that a function's dictionaries have."""
    found = [node for node in ast.walk(function) if isinstance(node, ast.Dict)]
    return {
        str(key.value)
        for each in found
        for key in each.keys
        if isinstance(key, ast.Constant) and "/" not in str(key.value)
    }


@functools.cache
def areas() -> set[str]:
    """What the learners call their part: `area = "policy"`."""
    return {
        str(node.value.value)
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "area"
        and isinstance(node.value, ast.Constant)
    }


@functools.cache
def stages() -> set[str]:
    return {
        str(ast.literal_eval(node.args[0]))
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".measure")
    }


def spelled(text: str, function: ast.AST) -> set[str]:
    """The names that an f-string with a slash stands for."""
    if text in NO_METRICS:
        return set()
    if text.startswith("{self.area}/"):
        return {text.replace("{self.area}", area) for area in areas()}
    if text == "time/{name}":
        return {f"time/{stage}" for stage in stages()}
    if text == "rate/{name}_tokens_per_s":
        return {f"rate/{stage}_tokens_per_s" for stage in ("generate", "score", "update")}
    filled = re.fullmatch(r"([a-z_]+/)\{(k|name)\}", text)
    assert filled, f"{text}: what does this f-string stand for?"
    names = keys(function)
    assert names, text
    return {filled[1] + name for name in names}


def logged() -> set[str]:
    found: set[str] = set()
    for tree in trees():
        found |= {text for text in strings(tree) if NAME.fullmatch(text)}
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.JoinedStr) and re.fullmatch(
                        r"[\w{}.]+/[\w{}.]+", template(node)
                    ):
                        found |= spelled(template(node), function)
    return {name for name in found if not name.startswith(CHECKED_BEFORE_THE_RUN)}


def test_the_source_is_read_as_it_is_written() -> None:
    assert {
        "reward/mean",
        "preference/margin",
        "preference/chosen_kl",
        "reward_model/rejected",
        "reward_aware/concordance",
        "critic/grad_norm",
        "reward_model/lr",
        "time/evaluate",
        "rate/score_tokens_per_s",
        "eval/nll_per_token",
    } <= logged()


def test_every_metric_is_explained_and_nothing_else() -> None:
    names = logged()
    assert sorted(names - meanings().keys()) == []
    # The reward model's constants of training pairs are named after those of held-out ones.
    names |= {name.replace("eval/", "train/") for name in names}
    # A method puts the spread of each token reward beside that of its sentence reward.
    suffix = "/sum_std"
    spread = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    names |= {f"{area}/to_reward_std_ratio" for area in spread}
    assert sorted(meanings().keys() - names) == []


def test_each_is_one_plain_sentence() -> None:
    for name, text in (meanings() | PREFIXES).items():
        assert text[-1] in ".?", name
        assert len(text) < 150, name
        assert text[0].isupper() or text.startswith("log "), name
    assert len(set(meanings().values())) == len(meanings())


def test_a_metric_of_another_package_is_told_by_its_beginning() -> None:
    assert meaning("dpo/sum_std").startswith("Standard deviation over responses")
    assert meaning("eval/mine") == "Measured on held-out rows."
    assert meaning("mine/loss") == ""
