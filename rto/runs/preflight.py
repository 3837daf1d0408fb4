"""What is wrong with the names and paths of a run: said before torch is imported, in a second."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rto.errors import UserError, foreign
from rto.sections.paths import is_hub_id
from rto.sections.run_config import RunConfig

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gz", ".py")
"""Of files: a path that ends so is no hub id."""
HUB_SECONDS = 5.0
"""How long the hub may take to say whether it has a model."""


def preflight(command: str, config: RunConfig) -> None:
    """Check what a run will open, as far as that takes no library.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    config.check_actor()
    for name, path in _files(command, config):
        _check_file(name, path)
    for name, path in _models(command, config):
        _check_model(name, path)


def _files(command: str, config: RunConfig) -> Iterator[tuple[str, str]]:
    """(setting, path) of each file that the command reads."""
    data = config.data
    names = ("prompt_dataset",) if command == "train" else ("dataset",)
    for name in (*names, "feedback", "eval_dataset", "pretrain_dataset"):
        value = vars(data)[name] or []
        paths = [value] if isinstance(value, str) else value
        yield from ((f"data.{name}", path) for path in paths)
    if command == "train" and config.reward.func_path is not None:
        yield "reward.func_path", config.reward.func_path


def _models(command: str, config: RunConfig) -> Iterator[tuple[str, str]]:
    """(setting, directory or hub id) of each model that the command loads."""
    sections = {"actor": config.actor, "ref": config.ref, "critic": config.critic}
    found = {name: section.model_name_or_path for name, section in sections.items()}
    if command == "train":
        found["dpo"] = config.dpo.model_name_or_path
    for name, path in found.items():
        if path is not None:
            yield f"{name}.model_name_or_path", path
    if command == "train":
        for path in config.reward.model_name_or_path:
            yield "reward.model_name_or_path", path


def _check_file(name: str, path: str) -> None:
    """Data may also be a hub id, which only the hub knows."""
    looks_local = not is_hub_id(path) or Path(path).suffix in SUFFIXES
    if looks_local and "://" not in path and not Path(path).expanduser().exists():
        raise UserError(f"{name}: {path}: no such file")


def _check_model(name: str, path: str) -> None:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return
    if not is_hub_id(path):
        raise UserError(f"{name}: {path}: neither a directory that exists nor a hub id")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with foreign(f"{name}: {path}: no such directory, and as a hub id"):
        cached = try_to_load_from_cache(path, "config.json")
    if isinstance(cached, str):
        return
    here = f"{name}: {path}: no such directory here, and not in the hub's cache"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(f"{here}; HF_HUB_OFFLINE is set")
    with foreign(f"{here}; the hub", "check the name and the connection"):
        try:
            get_hf_file_metadata(hf_hub_url(path, "config.json"), timeout=HUB_SECONDS)
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise UserError(
                f"{here}; the hub has no such model, or you may not read it: check the name, "
                "`hf auth login`"
            ) from error
