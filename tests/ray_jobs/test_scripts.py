"""The scripts, run as their pages show them."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "ray_jobs").glob("*.py"))
NAMES = ["logs", "render", "resume", "status", "stop", "submit"]


def main_of(name: str) -> Callable[[list[str]], int]:
    """The function that a script calls, by its source: `from rto.jobs.X import NAME`."""
    source = (ROOT / "ray_jobs" / f"{name}.py").read_text()
    module, function = re.findall(r"^from (rto\.jobs\.\w+) import (\w+)$", source, re.M)[0]
    assert f"sys.exit({function}(sys.argv[1:]))" in source
    return getattr(importlib.import_module(module), function)


def test_these_are_the_scripts() -> None:
    assert [path.stem for path in SCRIPTS] == NAMES


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_has_the_flags_that_it_shows(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main_of(script.stem)(["--help"])
    told = capsys.readouterr().out
    assert f"usage: {script.name} " in told
    commands = re.findall(r"python ray_jobs/.*", script.read_text())
    assert {flag for line in commands for flag in re.findall(r"(--\w+)", line)} - set(
        re.findall(r"--\w+", told)
    ) == set()


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    found
    for page in PAGES
    for found in re.findall(r"^python ray_jobs/(\w+)\.py (.*)$|^python ray_jobs/(\w+)\.py$",
                            page.read_text(), re.M)
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "alone"), COMMANDS)
def test_a_command_of_the_pages_is_taken(
    name: str, words: str, alone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Submit and render without a cluster; the others up to the question for a server."""
    script, argv = name or alone, shlex.split(words)
    nowhere = ["--address", "http://127.0.0.1:1"]
    if script == "submit":
        assert main_of(script)(["--dry_run", *argv]) == 0
    elif script == "render":
        assert main_of(script)(argv) == 0
    else:
        assert main_of(script)([*argv, *nowhere]) == 2
        assert "no Ray job server at http://127.0.0.1:1" in capsys.readouterr().err


def test_the_pages_show_every_script() -> None:
    assert {name or alone for name, _, alone in COMMANDS} == set(NAMES)


def test_a_script_runs_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "ray_jobs" / "status.py", "--address", "http://127.0.0.1:1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("status: no Ray job server at http://127.0.0.1:1")
    assert done.stderr.count("\n") == 1
