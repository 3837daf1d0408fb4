"""What is wrong with the names and paths of a run: said before torch is imported, in a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rto.errors import UserError
from rto.safety.startup import refuse_unsafe
from rto.sections.deepspeed_file import engine_extras
from rto.sections.methods import uses
from rto.sections.paths import is_hub_id
from rto.sections.run_config import RunConfig

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gz", ".py")
"""Of files: a path that ends so is no hub id."""


def preflight(command: str, config: RunConfig) -> None:
    """Check what a run will open, as far as that takes no library.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    refuse_unsafe()
    config.check_actor()
    for name, path in _files(command, config):
        _check_file(name, path)
    engine_extras(config, "actor")
    if command in ("fit", "train") and uses(config.algo.name, section="critic"):
        engine_extras(config, "critic")
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
    paths = {name: section.model_name_or_path for name, section in sections.items()}
    if command == "train":
        paths["dpo"] = config.dpo.model_name_or_path
    for name, path in paths.items():
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
    # It reads at its import what ``rto.tracking.quiet`` sets.
    from rto.models.hub import require_on_hub

    require_on_hub(name, path)
