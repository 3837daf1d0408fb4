from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rto.errors import UserError
from rto.tracking.run_folder import RunFolder, check_name, versions

HOLD = """
import sys
from rto.tracking.run_folder import RunFolder
with RunFolder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_layout_is_created_for_the_owner_only(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_config("train:\n  seed: 1\n")
        assert folder.config.read_text() == "train:\n  seed: 1\n"
        assert folder.path.stat().st_mode & 0o777 == 0o700
        present = {child.name for child in folder.path.iterdir()} - {".lock"}
    assert present == {"config.yaml", "versions.json", "rollouts", "checkpoints", "logs"}


def test_versions_name_the_installed_packages(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        found = json.loads((folder.path / "versions.json").read_text())
    assert found == versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "ray", "deepspeed", "transformers", "cpu_count", "platform"} <= found.keys()


def test_a_second_process_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"in use by process {holder.pid}\b"):
            RunFolder(tmp_path / "run")
        holder.kill()
        holder.wait()
        RunFolder(tmp_path / "run").close()


def test_an_earlier_run_is_only_opened_to_resume(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.metrics.write_text('{"iteration": 0}\n')
    with pytest.raises(UserError, match="already holds a run"):
        RunFolder(tmp_path / "run")
    with RunFolder(tmp_path / "run", resume=True) as folder:
        assert folder.metrics.exists()


def test_a_world_writable_folder_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "run"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(UserError, match="world-writable"):
        RunFolder(shared)


HOSTILE = ["", ".", "..", ".hidden", "-rf", "a/b", "../a", "a\n", "a\0b", "a b", "é", "x" * 65]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        check_name(name)


@pytest.mark.parametrize("name", ["run", "iter_000012", "rto-0.05_b", "x" * 64])
def test_plain_names_pass(name: str) -> None:
    assert check_name(name) == name
