"""The model that a path names: a run's newest export, a directory, or an id of the hub."""

from __future__ import annotations

from pathlib import Path

from rto.errors import UserError, foreign


def model_path(path: str) -> str:
    """A run folder's newest export; any other directory, and a hub id, as it is.

    Raises:
        UserError: the run has no export, or there is no such folder.
    """
    folder = Path(path).expanduser()
    with foreign(f"{path}: no such folder", "give a run folder, a model directory or a hub id"):
        if (folder / "last" / "config.json").is_file():
            return str(folder / "last")
        is_run = (folder / "config.yaml").is_file() and not (folder / "config.json").is_file()
        is_folder = folder.is_dir()
    if is_run:
        raise UserError(f"{path}: this run has no `last` export yet: wait for a checkpoint")
    if is_folder:
        return str(folder)
    if path.count("/") != 1 or path.startswith(("/", ".", "~", "runs/")):
        raise UserError(f"{path}: no such folder: give a run folder, a model directory or a hub id")
    return path
