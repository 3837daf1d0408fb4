"""Who may import whom: read from the source, so that imports inside functions count too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rto", "rpo_ext")
OURS = (*PACKAGES, "ray_jobs", "examples", "benchmarks", "tests")
HEAVY = ("ray", "vllm", "deepspeed", "transformers", "datasets")

FUNCTIONAL = ("rto.functional", "rpo_ext.functional")
METHODS = ("rto.methods", "rpo_ext.methods")
SETTINGS = (
    *("rto.card", "rto.sections.ranges", "rto.sections.methods", "rto.sections.run_config"),
    "transformers.PreTrainedTokenizerBase",
)
"""What the settings of methods import; the tokenizer and the run are types to them."""

ALLOWED = {
    "rto.text": (),
    "rto.secrets": (),
    "rto.errors": ("rto.secrets", "rto.text"),
    "rto.sections.ranges": ("rto.errors",),
    "rto.sections.training": ("rto.sections.ranges",),
    "rto.sections.runtime": ("rto.sections.ranges",),
    "rto.card": (),
    "rto.sections.run_config": (
        "rto.sections.ranges",
        "rto.secrets",
        "rto.sections.data",
        "rto.sections.training",
        "rto.sections.methods",
        "rto.sections.runtime",
    ),
    "rto.types": ("numpy", "torch"),
    "rto.protocols": ("torch", "rto.card", "rto.types"),
    "rto.loop": (
        *("torch", "rto.types", "rto.protocols"),
        *("rto.finite", "rto.observe", "rto.overlap"),
    ),
    "rto.interrupt": ("rto.errors",),
    "rto.storage": ("rto.errors",),
    "rto.overlap": ("torch", "rto.types", "rto.protocols", "rto.interrupt"),
    "rto.observe": ("torch", "rto.types", "rto.functional"),
    "rto.finite": ("torch", "rto.errors", "rto.types"),
    "rto.functional": ("torch", "rto.types", "rto.functional"),
    "rpo_ext.functional": ("torch", "rto.types", *FUNCTIONAL),
    "rto.methods": (
        *("torch", "rto.types", "rto.protocols", "rto.functional", "rto.methods"),
        *SETTINGS,
    ),
    "rpo_ext.methods": (
        *("torch", "rto.types", "rto.protocols", "rpo_ext.settings"),
        *(*FUNCTIONAL, *METHODS),
    ),
    "rpo_ext.settings": ("rpo_ext.methods", "rto.protocols", *SETTINGS),
}
"""Module or package -> what it may import beside the standard library."""

ROOMS = {
    "api": "errors report runs sections tracking",
    "batching": "errors types",
    "builds": "errors",
    "card": "",
    "cli": "comparison data errors evaluation models planning registry report rollout runs safety "
    "scoring secrets sections text tracking training types",
    "cluster": "batching crash data errors interrupt models processes protocols rollout safety "
    "scoring sections tracking training types weights",
    "comparison": "card cluster data errors evaluation models registry runs sections tracking "
    "types",
    "crash": "",
    "data": "errors models protocols sections text types",
    "errors": "secrets text",
    "evaluation": "builds data errors models rollout runs scoring secrets sections tracking types "
    "yaml_file",
    "finite": "errors types",
    "functional": "types",
    "interrupt": "errors",
    "jobs": "cli cluster errors report resources runs secrets sections text tracking yaml_file",
    "loop": "finite observe overlap protocols types",
    "methods": "card functional protocols sections types",
    "models": "batching errors functional sections types",
    "moved": "",
    "observe": "functional types",
    "overlap": "interrupt protocols types",
    "planning": "cluster errors models report rollout sections weights",
    "processes": "",
    "protocols": "card types",
    "quickstart": "cli cluster data errors evaluation models resources runs sections tracking "
    "types",
    "registry": "card errors protocols sections types",
    "report": "errors secrets sections tracking yaml_file",
    "resources": "",
    "rollout": "batching builds errors models sections types weights",
    "runs": "card cluster crash data errors functional interrupt loop methods models observe "
    "planning processes protocols registry report rollout safety scoring sections storage tracking "
    "training types weights",
    "safety": "builds errors processes",
    "scoring": "batching data errors models secrets sections text types",
    "secrets": "",
    "sections": "card errors protocols resources secrets text yaml_file",
    "storage": "errors",
    "text": "",
    "tracking": "crash errors functional interrupt overlap protocols secrets sections storage "
    "text types",
    "training": "batching crash data errors functional methods models protocols rollout sections "
    "storage text types weights",
    "types": "",
    "weights": "errors",
    "yaml_file": "errors",
}
"""Folder, or module, of rto/ -> those that it may import."""

ONLY_IN = {
    "ray": ("rto.cluster", "rto.jobs"),
    "vllm": ("rto.rollout.vllm",),
    "deepspeed": ("rto.training.deepspeed",),
}
"""Heavy library -> the only places in the packages that import it."""


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module in the packages."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str) -> Iterator[str]:
    """Dotted names that a source imports, wherever the import stands.

    ``from a import b`` gives ``a.b``: only the source of ``a`` could tell whether b is a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level > 0:
                raise AssertionError(f"relative import in line {node.lineno}: name the package")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def third_party_or_ours(source: str) -> list[str]:
    return [name for name in imports(source) if name.split(".")[0] not in sys.stdlib_module_names]


def test_imports_are_seen_wherever_they_stand() -> None:
    source = "import os\ndef f():\n    import ray.util\nif 1:\n    from rto.types import Role\n"
    assert set(third_party_or_ours(source)) == {"rto.types.Role", "ray.util"}
    with pytest.raises(AssertionError, match="line 1"):
        list(imports("from . import types"))


def test_below_is_about_whole_names() -> None:
    assert below("ray.util", ("ray",))
    assert not below("ray_jobs.submit", ("ray",))


@pytest.mark.parametrize("place", ALLOWED)
def test_a_layer_imports_only_what_it_may(place: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if below(module, (place,))
        for name in third_party_or_ours(path.read_text(encoding="utf-8"))
        if not below(name, ALLOWED[place])
    ]
    assert wrong == []


def room(module: str) -> str:
    """The folder of rto/ that a module is in, or the module itself where it is in none."""
    return module.split(".")[1] if "." in module else ""


def rooms_that(module: str, path: Path) -> set[str]:
    """The rooms that a module imports, without its own; what `rto` itself offers is in none."""
    found = {
        room(name)
        for name in imports(path.read_text(encoding="utf-8"))
        if below(name, ("rto",)) and room(name) in ROOMS
    }
    return found - {room(module)}


def test_every_folder_has_a_rule() -> None:
    assert {room(module) for module in MODULES if below(module, ("rto",))} - {""} == set(ROOMS)


@pytest.mark.parametrize("place", ROOMS)
def test_a_folder_imports_only_what_its_rule_names(place: str) -> None:
    found = {
        (module, other)
        for module, path in MODULES.items()
        if below(module, ("rto",)) and room(module) == place
        for other in rooms_that(module, path)
    }
    assert {pair for pair in found if pair[1] not in ROOMS[place].split()} == set()
    assert {other for _, other in found} == set(ROOMS[place].split()), "a rule says no more than is"


def test_folders_import_each_other_in_one_direction() -> None:
    """A folder can be read when all that it imports has been."""
    left = {place: set(others.split()) for place, others in ROOMS.items()}
    while left:
        ready = [place for place, others in left.items() if not others & left.keys()]
        assert ready, f"a circle among {sorted(left)}"
        left = {place: others for place, others in left.items() if place not in ready}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_is_imported_in_one_place(library: str) -> None:
    importers = {
        module
        for module, path in MODULES.items()
        if any(below(name, (library,)) for name in imports(path.read_text(encoding="utf-8")))
    }
    assert {module for module in importers if not below(module, ONLY_IN[library])} == set()


def test_the_pipeline_imports_neither_the_extension_nor_the_scripts() -> None:
    outside = tuple(name for name in OURS if name != "rto")
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in imports(path.read_text(encoding="utf-8"))
        if below(name, outside if below(module, ("rto",)) else OURS[2:])
    ]
    assert wrong == []


def test_init_files_import_the_standard_library_alone() -> None:
    """But for the package's own: its functions are there at their first use, and what an installer
    did wrong is seen before a library can be imported."""
    inits = {name: path for name, path in MODULES.items() if path.name == "__init__.py"}
    found = {name: third_party_or_ours(p.read_text("utf-8")) for name, p in inits.items()}
    assert [
        name for name in found.pop("rto") if not below(name, ("rto.api", "rto.builds", "rto.moved"))
    ] == []
    assert found
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert loaded_after_importing(["rto"]) & {"torch", "yaml", "jsonargparse", *HEAVY} == set()


def loaded_after_importing(names: list[str]) -> set[str]:
    """Top-level modules in a fresh interpreter that has imported ``names``."""
    code = (
        "import sys, importlib\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(done.stdout.split())


def test_the_core_loads_no_heavy_library() -> None:
    core = [module for module in MODULES if below(module, tuple(ALLOWED))]
    assert {
        "rto.functional",
        "rto.methods",
        "rto.loop",
        "rto.types",
        "rto.sections.run_config",
    } <= set(core)
    loaded = loaded_after_importing(core)
    assert "torch" in loaded
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize("module", ["rto.cli.main", "rto.sections.run_config", "rto.api"])
def test_the_command_line_answers_without_torch(module: str) -> None:
    assert loaded_after_importing([module]) & {"torch", *HEAVY} == set()
