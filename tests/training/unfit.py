"""Weights and files that an engine must not pass on, and what it says of them: for ranks.py."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rto.errors import TrainingDiverged, UserError
from rto.training.learner import PolicyTrainer


class Payload:
    """Pickled, it is a call of ``Path.touch``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def unfit(
    rank: int, directory: Path, tag: str, make: Callable[[], PolicyTrainer]
) -> dict[str, Any]:
    """``make`` gives a trainer; of one that ZeRO-3 has taken apart only rank 1 is spoilt."""
    trainer = make()
    trainer.save(directory, tag)
    scale = dict(trainer.engine._module.inner.named_parameters())["model.model.norm.weight"]
    part = getattr(scale, "ds_tensor", scale)
    if rank == 1 or part is scale:
        part.data.view(-1)[0] = float("nan")
    acts: dict[str, Callable[[], None]] = {
        "save": lambda: trainer.save(directory, f"{tag}_bad"),
        "load": lambda: make().load(directory, f"{tag}_bad"),
        "hostile": lambda: make().load(directory, f"{tag}_hostile"),
    }
    said: dict[str, Any] = {}
    for name, act in acts.items():
        dist.barrier()
        try:
            act()
        except (TrainingDiverged, UserError) as error:
            said[name] = f"{type(error).__name__}: {error}"
        dist.barrier()
        if name == "save":
            said["written"] = (directory / f"{tag}_bad").exists()
            trainer.engine._engine.save_checkpoint(str(directory), tag=f"{tag}_bad")
            if rank == 0:
                shutil.copytree(directory / tag, directory / f"{tag}_hostile")
                for path in (directory / f"{tag}_hostile").glob("*.pt"):
                    torch.save({"module": Payload(directory / "canary")}, path)
    said["ran"] = (directory / "canary").exists()
    return said
