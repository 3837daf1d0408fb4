"""The tests mirror the packages: rto/a/b.py has tests/a/test_b.py, and what has none says why.

A module of ``rpo_ext`` has tests/rpo_ext/test_<name>.py, whichever folder it is in. A module may
have more files, test_<module>_<subject>.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ELSEWHERE = {
    "rpo_ext/functional/checks.py": "refused settings: tests/rpo_ext/test_scalar_methods.py",
    "rpo_ext/functional/responses.py": "sums in the losses: tests/rpo_ext/test_scalar_methods.py",
    "rpo_ext/methods/dro.py": "with the other methods in tests/rpo_ext/test_scalar_methods.py",
    "rpo_ext/methods/kto.py": "with the other methods in tests/rpo_ext/test_scalar_methods.py",
    "rpo_ext/methods/rpo.py": "with the other methods in tests/rpo_ext/test_scalar_methods.py",
    "rto/card.py": "a record; the cards of all methods: tests/cli/test_methods.py",
    "rto/cli/eval_flags.py": "the flags of `rto eval`, read by tests/cli/test_eval.py",
    "rto/cli/new_file.py": "the flag --out: tests/cli/test_generate.py",
    "rto/cli/results.py": "one printed line: tests/cli/test_run.py",
    "rto/comparison/run.py": "`rto compare`: planned and judged in tests/cli/test_compare.py",
    "rto/data/feedback/command.py": "`rto data`: tests/cli/test_data.py",
    "rto/evaluation/bertscore.py": "with the other metrics: tests/evaluation/test_metrics.py",
    "rto/evaluation/bleu.py": "tests/evaluation/test_metrics.py, test_diversity.py",
    "rto/evaluation/classifier.py": "with the other metrics: tests/evaluation/test_metrics.py",
    "rto/evaluation/generate.py": "`rto generate`: tests/cli/test_generate.py",
    "rto/evaluation/measured.py": "records of tests/evaluation/test_metrics.py and test_suite.py",
    "rto/evaluation/meteor.py": "with the other metrics: tests/evaluation/test_metrics.py",
    "rto/evaluation/plan.py": "what `rto eval` is asked for: tests/cli/test_eval.py",
    "rto/evaluation/run.py": "`rto eval`: tests/cli/test_eval.py, tests/scoring/test_alike.py",
    "rto/methods/base.py": "the defaults of SFT and DPO in tests/methods/test_offline_methods.py",
    "rto/methods/expect.py": "one check, as in tests/methods/test_offline_methods.py",
    "rto/methods/policy_gradient.py": "the base of PPO and others: tests/methods/test_ppo.py",
    "rto/methods/preference.py": "tests/methods/test_preference_methods.py holds all of them",
    "rto/methods/reward_model.py": "tests/methods/test_offline_methods.py",
    "rto/methods/settings/policy_gradient.py": "tests/cli/test_methods.py, test_ppo.py",
    "rto/methods/settings/preference.py": "tests/methods/test_preference_methods.py",
    "rto/methods/settings/sft.py": "nothing to set: tests/cli/test_methods.py",
    "rto/methods/sft.py": "tests/methods/test_offline_methods.py",
    "rto/models/hub.py": "names that are no files: tests/models/test_load.py",
    "rto/models/lora.py": "adapters under DeepSpeed: tests/integration/test_options.py",
    "rto/planning/rates.py": "constants, each in the arithmetic of tests/planning/test_cost.py",
    "rto/protocols.py": "types alone; the fakes of the tests satisfy them: tests/test_loop.py",
    "rto/quickstart/run.py": "the whole recipe: tests/integration/test_readme.py",
    "rto/quickstart/stages.py": "records of tests/quickstart/test_recipe.py",
    "rto/registry.py": "names, entry points, cards: tests/cli/test_methods.py",
    "rto/rollout/vllm/engine.py": "runs with vLLM alone: tests/integration/test_vllm_engine.py",
    "rto/rollout/vllm/sender.py": "sends with vLLM alone: tests/integration/test_vllm_engine.py",
    "rto/rollout/vllm/weights.py": "runs in vLLM's workers: tests/integration/test_vllm_engine.py",
    "rto/runs/best.py": "chosen among iterations in tests/runs/test_checkpointing.py",
    "rto/runs/execute.py": "tests/cli/test_going_on.py and tests/integration/test_pipeline.py",
    "rto/safety/finding.py": "a record: tests/safety/test_startup.py",
    "rto/scoring/finite.py": "the answers of all sources: tests/scoring/test_function_worker.py",
    "rto/sections/data.py": "fields: tests/sections/test_settings_keep_their_meaning.py",
    "rto/sections/foreign.py": "flags of other programs: tests/cli/test_convert.py",
    "rto/sections/training.py": "fields: tests/sections/test_settings_keep_their_meaning.py",
    "rto/sections/values.py": "how values are written: tests/sections/test_parse.py",
    "rto/tracking/wandb_writer.py": "with the other writers: tests/tracking/test_metrics.py",
}
"""Module -> why it has no test file of its name, and which file tests it."""

ACROSS = {
    "tests/functional/test_openrlhf_oracle.py": "functions of several modules against OpenRLHF's",
    "tests/report/test_browser.py": "the page of all parts in a real browser",
    "tests/report/test_commands.py": "the page of each training command's folder",
    "tests/scoring/test_alike.py": "one score in training, runs, servers and `rto eval`",
    "tests/cli/test_going_on.py": "the start of a run through rto/runs/execute.py",
    "tests/cluster/test_prepared_reads.py": "rto/runs/prepare.py against rto/sections/reads.py",
    "tests/methods/test_offline_methods.py": "the methods of stored rows, side by side",
    "tests/rpo_ext/test_scalar_methods.py": "the methods of rpo_ext, side by side",
    "tests/rpo_ext/test_t5_learns.py": "training of an encoder-decoder, from data to correlation",
    "tests/sections/test_settings_keep_their_meaning.py": "all sections against a record",
}
"""Test file in a mirrored folder -> why it belongs to no module."""


def modules() -> list[str]:
    """Of both packages; those without a line of code need no test."""
    found = (path for package in ("rto", "rpo_ext") for path in (ROOT / package).rglob("*.py"))
    return sorted(str(p.relative_to(ROOT)) for p in found if p.name != "__init__.py")


def files() -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("test_*.py"))


def file_of(module: str) -> str:
    """The test file of a module's name."""
    package, *folders, name = module.split("/")
    inside = ["rpo_ext"] if package == "rpo_ext" else folders
    return "/".join(["tests", *inside, f"test_{name}"])


def without_a_file(modules: Iterable[str], files: Collection[str]) -> set[str]:
    return {module for module in modules if file_of(module) not in files}


def without_a_module(modules: Collection[str], files: Iterable[str]) -> set[str]:
    """The files in a folder where modules have theirs that carry no module's name."""
    own = {file_of(module).removesuffix(".py") for module in modules}
    folders = {name.rpartition("/")[0] for name in own}
    return {
        file
        for file in files
        if file.rpartition("/")[0] in folders and not own & set(_names(file.removesuffix(".py")))
    }


def _names(file: str) -> list[str]:
    """tests/a/test_b_c -> itself, and tests/a/test_b."""
    folder, _, name = file.rpartition("/")
    parts = name.split("_")
    return [f"{folder}/{'_'.join(parts[:n])}" for n in range(2, len(parts) + 1)]


def unlike(found: set[str], told: Mapping[str, str]) -> dict[str, list[str]]:
    """What is found and not told of, and what is told of and not found."""
    return {"not told of": sorted(found - told.keys()), "not so": sorted(told.keys() - found)}


NOTHING: dict[str, list[str]] = {"not told of": [], "not so": []}


def test_every_module_has_a_test_file_or_a_reason_and_not_both() -> None:
    assert unlike(without_a_file(modules(), files()), ELSEWHERE) == NOTHING


def test_every_test_file_belongs_to_a_module_or_has_a_reason() -> None:
    assert unlike(without_a_module(modules(), files()), ACROSS) == NOTHING


@pytest.mark.parametrize("module", ELSEWHERE)
def test_a_reason_names_files_that_are_there(module: str) -> None:
    named = re.findall(r"tests/[\w/]+\.py", ELSEWHERE[module])
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


MODULES = ["rto/a/b.py", "rto/c.py", "rpo_ext/x/y.py"]
FILES = ["tests/a/test_b.py", "tests/test_c.py", "tests/rpo_ext/test_y.py", "tests/repo/test_z.py"]


def test_what_mirrors_needs_no_reason() -> None:
    assert unlike(without_a_file(MODULES, FILES), {}) == NOTHING
    assert unlike(without_a_module(MODULES, FILES), {}) == NOTHING


@pytest.mark.parametrize("gone", range(3))
def test_a_module_without_a_file_needs_a_reason(gone: int) -> None:
    left = [file for file in FILES if file != FILES[gone]]
    found = without_a_file(MODULES, left)
    assert unlike(found, {})["not told of"] == [MODULES[gone]]
    assert unlike(found, {MODULES[gone]: "why"}) == NOTHING


@pytest.mark.parametrize("module", ["rto/gone.py", "rto/a/b.py"], ids=["no module", "has a file"])
def test_a_reason_that_holds_no_more_is_found(module: str) -> None:
    assert unlike(without_a_file(MODULES, FILES), {module: "why"})["not so"] == [module]


@pytest.mark.parametrize(
    ("file", "belongs"),
    [
        ("tests/a/test_b_more.py", True),
        ("tests/a/test_bc.py", False),
        ("tests/a/test_c.py", False),
        ("tests/test_b.py", False),
        ("tests/rpo_ext/test_x.py", False),
        ("tests/integration/test_any.py", True),
    ],
)
def test_a_file_belongs_to_the_module_whose_name_it_begins_with(file: str, belongs: bool) -> None:
    assert unlike(without_a_module(MODULES, [*FILES, file]), {})["not told of"] == (
        [] if belongs else [file]
    )
