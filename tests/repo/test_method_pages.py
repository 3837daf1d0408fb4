"""The pages about methods name every method, and only settings and defaults that are so."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from rpo_ext.methods.dro import DRO
from rpo_ext.methods.kto import KTO
from rto.card import Mode
from rto.cli.compare import parser
from rto.registry import card
from rto.sections.methods import GROUP
from rto.sections.names import accepted, aliases, canonical, owners
from rto.sections.parse import defaults

DOCS = Path(__file__).resolve().parents[2] / "docs"
METHODS = (DOCS / "methods.md").read_text(encoding="utf-8")
PAGES = [DOCS / f"{name}.md" for name in ("methods", "rpo", "compare", "extending")]
OURS = sorted(p.name for p in entry_points(group=GROUP) if p.dist and p.dist.name == "rto-rlhf")
CHOICES = (
    *("preference.loss", "algo.rpo.estimator", "algo.rpo.reduction", "algo.dro.variant"),
    *("algo.kto.variant", "algo.kto.threshold", "algo.dpo_reward_variant"),
)
SECTIONS: dict[str, tuple[Mode, ...]] = {
    "## Demonstrations and pairs, offline": ("offline",),
    "## Rewards, online: credit per token": ("online",),
    "## Rewards, offline and online: one number per response": ("offline", "online"),
}


def section(heading: str) -> str:
    """The text under a heading, up to the next of its kind."""
    _, _, after = METHODS.partition(f"{heading}\n")
    return after.partition("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """Method -> its table row."""
    found = re.findall(r"^\| `(\w+)` \| .*\|$", text, re.M)
    lines = re.findall(r"^\| `\w+` \| .*\|$", text, re.M)
    assert len(found) == len(set(found))
    return dict(zip(found, lines, strict=True))


BY_VARIANT = {
    "algo.dro.reduction": DRO().logprob_reduction,
    "algo.kto.beta": KTO().inverse_temperature,
}
"""Settings that are the variant's own where nobody sets them."""
TABLES = {name: row for heading in SECTIONS for name, row in rows(section(heading)).items()}


def resolved(flag: str) -> str:
    name = flag.removeprefix("--")
    return aliases().get(name, name)


def default(method: str, field: str) -> Any:
    """Of a setting of the method, however it is spelled, or of a shared one."""
    name = resolved(field)
    owner = sorted(owners(name) or ())
    setting = str(canonical(name, method if method in owner else next(iter(owner), None)))
    return BY_VARIANT.get(setting, defaults()[setting])


def test_every_method_has_one_row() -> None:
    assert sorted(TABLES) == OURS


@pytest.mark.parametrize("name", OURS)
def test_a_row_says_what_the_method_says(name: str) -> None:
    row, described = TABLES[name], card(name)
    (heading,) = [h for h in SECTIONS if name in rows(section(h))]
    assert SECTIONS[heading] == described.modes
    assert described.paper.removeprefix("arXiv ") in row


@pytest.mark.parametrize("name", OURS)
def test_the_defaults_are_those(name: str) -> None:
    stated = re.findall(r"`(?:--)?([a-z_.]+)` = ([\w.]+)", TABLES[name])
    assert {field: yaml.safe_load(value) for field, value in stated} == {
        field: default(name, resolved(field)) for field, _ in stated
    }


def test_the_defaults_in_the_text_are_those() -> None:
    text = "\n".join(line for line in METHODS.splitlines() if not line.startswith("|"))
    stated = re.findall(r"`([a-z_.]+)`\s= ([\w.]+)", text)
    assert stated
    for field, value in stated:
        assert yaml.safe_load(value) == default("ppo", field), field


@pytest.mark.parametrize("field", CHOICES)
def test_every_choice_is_on_a_page(field: str) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (*PAGES, DOCS / "rto.md"))
    choices = [x for x in get_args(accepted()[field]) if isinstance(x, str)]
    choices += [x for option in get_args(accepted()[field]) for x in get_args(option)]
    assert choices
    assert [x for x in choices if not re.search(rf"[` =]{x}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_flag_exists(page: Path) -> None:
    known = {"config", "dry_run", "json", *aliases(), *accepted()}
    known |= {"algo.rwr.beta"}  # Of the package on the page.
    known |= {option.removeprefix("--") for option in parser()._option_string_actions}
    pip = {"no-deps"}
    flags = set(re.findall(r"--([A-Za-z][\w.-]*)", page.read_text(encoding="utf-8")))
    assert flags - known - pip == set()
