from __future__ import annotations

from pathlib import Path

import pytest

from rto.resources import CONFIGS, ROOT, shipped


def test_a_shipped_file_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "examples/configs/quickstart-rto.yaml"
    assert shipped(name) == str(CONFIGS / "quickstart-rto.yaml")
    assert shipped("ray_jobs/quickstart_cpu.yaml") == str(ROOT / "ray_jobs" / "quickstart_cpu.yaml")
    for other in ("quickstart-rto.yaml", "setup.py", "examples/configs/no.yaml", "x" * 5000):
        assert shipped(other) == other
    (tmp_path / "examples" / "configs").mkdir(parents=True)
    (tmp_path / name).touch()  # The user's own file of that name comes first.
    assert shipped(name) == name
