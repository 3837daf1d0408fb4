"""Torch's companions are left alone, unless the installer brought the wrong build of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEEN = """
import importlib.util, rto
print(importlib.util.find_spec("torchvision") is not None)
try:
    import torchvision
except ImportError:
    print("not there")
else:
    print("imported")
"""


@pytest.mark.parametrize(
    ("torch", "torchvision", "seen"),
    [
        ("2.13.0+cpu", "0.28.0", ["False", "not there"]),
        ("2.13.0+cpu", "0.28.0+cpu", ["True", "imported"]),
        ("2.13.0+cu130", "0.28.0", ["True", "imported"]),
        ("2.13.0", "0.28.0", ["True", "imported"]),
        ("2.13.0+cpu", None, ["False", "not there"]),
    ],
)
def test_a_cuda_build_beside_a_cpu_torch_is_as_not_installed(
    tmp_path: Path, torch: str, torchvision: str | None, seen: list[str]
) -> None:
    for name, version in (("torch", torch), ("torchvision", torchvision)):
        if version is not None:
            package = tmp_path / name
            package.mkdir()
            (package / "__init__.py").touch()
            (package / "version.py").write_text(f"__version__ = '{version}'\n")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n{SEEN}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split("\n")[:2] == seen
