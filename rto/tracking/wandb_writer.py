"""Metrics to Weights & Biases, where a run asks for it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

import wandb

from rto.errors import UserError, foreign
from rto.sections.runtime import WandB
from rto.tracking.run_folder import RunFolder

log = logging.getLogger(__name__)
WANDB_INIT_SECONDS = 30.0


def check_wandb(section: WandB) -> None:
    """Weights & Biases needs a key where it is on: WANDB_API_KEY, or what `wandb login` left.

    Raises:
        UserError: there is none, or it is malformed.
    """
    if not section.enable or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return
    with foreign("logger.wandb.enable: the key", "run `wandb login` again"):
        known = wandb.login(prompt=False, verify=False)
    if not known:
        raise UserError(
            "logger.wandb.enable is on and no key is known: run `wandb login`, export "
            "WANDB_API_KEY, or set WANDB_MODE=offline"
        )


class WandbWriter:
    """Weights & Biases. Its failure is warned of once and never stops the training."""

    def __init__(self, section: WandB, folder: RunFolder) -> None:
        check_wandb(section)
        self._run: wandb.Run | None = None
        try:
            self._run = wandb.init(
                project=section.project,
                name=section.run_name or folder.path.name,
                group=section.group,
                dir=folder.logs,
                config=folder.settings(),
                settings=wandb.Settings(
                    init_timeout=WANDB_INIT_SECONDS, console="off", silent=True
                ),
            )
        except (wandb.Error, OSError) as error:
            self._give_up(error)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        if self._run is None:
            return
        try:
            self._run.log(dict(metrics), step=iteration)
        except (wandb.Error, OSError) as error:
            self._give_up(error)

    def close(self) -> None:
        """While an error ends the run, it is marked as failed there."""
        if self._run is not None:
            self._run.finish(exit_code=0 if sys.exc_info()[1] is None else 1)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        log.warning("W&B is off for the rest of this run: %s", type(error).__name__)
