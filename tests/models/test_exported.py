"""What a path of a model means: a run, a directory, an id of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from rto.errors import UserError
from rto.models.exported import model_path


def test_a_run_folder_means_its_last_export(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match="no `last` export yet"):
        model_path(str(tmp_path))
    (tmp_path / "last" / "config.json").write_text("{}")
    assert model_path(str(tmp_path)) == str(tmp_path / "last")


def test_a_model_directory_and_a_hub_id_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_path(str(tmp_path)) == str(tmp_path)
    assert model_path("org/model") == "org/model"


@pytest.mark.parametrize("path", ["nowhere", "/no/where", "./nowhere", "runs/nowhere", "a/b/c"])
def test_no_such_folder(path: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        model_path(path)
