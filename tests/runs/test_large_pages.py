from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rto.runs.large_pages import SWITCH, use_large_pages

KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FAULTS = """
import resource, sys
from rto.runs.large_pages import use_large_pages
if sys.argv[1] == "yes":
    use_large_pages()
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(asked: str) -> int:
    """Pages that the kernel hands out for a tensor of 64 MiB."""
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    command = [sys.executable, "-W", "ignore", "-c", FAULTS, asked]
    return int(subprocess.check_output(command, env=environment, text=True))


@pytest.mark.skipif(
    not KERNEL.exists() or "[madvise]" not in KERNEL.read_text(), reason="the kernel's own choice"
)
def test_a_large_tensor_takes_few_pages() -> None:
    assert faults("no") > 16_000
    assert faults("yes") < 4_000


def test_a_child_gets_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    use_large_pages()
    assert SWITCH not in os.environ


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    use_large_pages()
    assert os.environ[SWITCH] == "0"


def test_the_first_tensor_is_made_while_the_switch_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(torch, "empty", lambda size: seen.append((size, os.environ[SWITCH])))
    use_large_pages()
    assert seen == [(1, "1")]


def test_a_tensor_that_cannot_be_made_leaves_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(size: int) -> None:
        raise MemoryError

    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(torch, "empty", refused)
    with pytest.raises(MemoryError):
        use_large_pages()
    assert SWITCH not in os.environ
