from __future__ import annotations

from pathlib import Path

import pytest
from job_server import write_run

from rto.jobs.standing import figures, newest_checkpoint, reachable, standing


def test_a_run_folder_is_found_as_the_nodes_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_run(tmp_path / "runs" / "x")
    for name in ("~/runs/x", "$HOME/runs/x", str(tmp_path / "runs" / "x")):
        assert reachable(name) == tmp_path / "runs" / "x"
    assert reachable("~/runs/y") is None
    assert reachable(None) is None


def test_the_last_figures_are_told(tmp_path: Path) -> None:
    place = write_run(tmp_path / "x", steps=7)
    assert figures(place) == "interrupted, step 7, policy/loss 0.5000, reward/mean 1.250"


def test_what_stands(tmp_path: Path) -> None:
    place = write_run(tmp_path / "x", steps=12)
    (place / "checkpoints" / "step_00000003").mkdir()
    (place / "checkpoints" / "tmp_00000020").mkdir()
    assert newest_checkpoint(place) == place / "checkpoints" / "step_00000011"
    assert standing(str(place)) == [
        f"run folder  {place}",
        f"run         {figures(place)}",
        f"checkpoint  {place}/checkpoints/step_00000011",
    ]


def test_what_does_not_stand_is_said(tmp_path: Path) -> None:
    place = write_run(tmp_path / "x", checkpoint=False)
    assert standing(str(place))[-1] == "checkpoint  none was written yet (ckpt.save_steps)"
    assert standing("/nosuch") == ["run folder  /nosuch (not on this machine, or not made yet)"]
    assert "none that is known" in standing(None)[0]
