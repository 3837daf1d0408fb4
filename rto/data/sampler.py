"""Choose the rows of an iteration by (seed, iteration) alone, so that a run can resume."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from rto.errors import UserError
from rto.types import Prompt


def permutation(size: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch [size]."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randperm(size, generator=generator).numpy()


class PromptSampler:
    """Batches of distinct prompts; the rows that do not fill an epoch's last batch wait."""

    def __init__(self, prompts: Sequence[Prompt], *, batch_size: int, seed: int) -> None:
        if len(prompts) < batch_size:
            raise UserError(
                f"rollout.batch_size is {batch_size}, but there are {len(prompts)} prompts: "
                "lower it or give more prompts"
            )
        self._prompts = prompts
        self._batch_size = batch_size
        self._seed = seed
        self.iterations_per_epoch = len(prompts) // batch_size
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def num_drawn(self, iterations: int) -> int:
        """Distinct prompts of the first ``iterations`` iterations."""
        drawn = np.zeros(len(self._prompts), bool)
        for start in range(0, iterations, self.iterations_per_epoch):
            epoch = start // self.iterations_per_epoch
            order = permutation(len(self._prompts), seed=self._seed, epoch=epoch)
            batches = min(iterations - start, self.iterations_per_epoch)
            drawn[order[: batches * self._batch_size]] = True
            if drawn.all():
                break
        return int(drawn.sum())

    def draw(self, iteration: int) -> list[Prompt]:
        epoch, batch = divmod(iteration, self.iterations_per_epoch)
        if epoch != self._epoch:
            self._order = permutation(len(self._prompts), seed=self._seed, epoch=epoch)
            self._epoch = epoch
        start = batch * self._batch_size
        return [self._prompts[row] for row in self._order[start : start + self._batch_size]]
