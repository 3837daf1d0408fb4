"""Two gloo ranks that train ten steps under a ZeRO stage, and again from each step's checkpoint on.

    python resume_ranks.py DIRECTORY STAGE ...

writes ``rank0.pt`` and ``rank1.pt``: stage -> step -> whether weights and optimizer states at the
end are those of the run that was not stopped, bit for bit.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from ranks import (  # pyright: ignore[reportMissingImports]
    objectives,
    policy_trainer,
    settings,
)
from saved_states import same, states
from torch.multiprocessing.spawn import spawn

from rto.methods.sft import SFT
from rto.training.deepspeed import init_process_group
from rto.training.learner import PolicyTrainer

STEPS = 10


def trainer(stage: int) -> PolicyTrainer:
    return policy_trainer(settings(stage, total_steps=STEPS))


def resumed(rank: int, stage: int, directory: Path) -> dict[int, bool]:
    """By the step after which a run was stopped."""
    work = objectives(rank, SFT())
    whole = trainer(stage)
    for step in range(1, STEPS + 1):
        whole.update(work[step % len(work)])
        whole.save(directory, f"stage{stage}_{step}")
    dist.barrier()
    expected = states(directory / f"stage{stage}_{STEPS}")
    found: dict[int, bool] = {}
    for stopped in range(1, STEPS + 1):
        again = trainer(stage)
        again.load(directory, f"stage{stage}_{stopped}")
        for step in range(stopped + 1, STEPS + 1):
            again.update(work[step % len(work)])
        again.save(directory, f"stage{stage}_{stopped}_end")
        dist.barrier()
        found[stopped] = same(states(directory / f"stage{stage}_{stopped}_end"), expected)
        again.engine.close()
    return found


def main(rank: int, port: int, directory: Path, stages: Sequence[int]) -> None:
    torch.set_num_threads(1)
    init_process_group(
        rank=rank,
        world_size=2,
        master_addr="127.0.0.1",
        master_port=port,
        timeout=60,
        device="cpu",
    )
    found = {stage: resumed(rank, stage, directory) for stage in stages}
    torch.save(found, directory / f"rank{rank}.pt")


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()[1]
    os.environ["OMP_NUM_THREADS"] = "1"
    chosen = [int(word) for word in sys.argv[2:]]
    spawn(main, args=(address, Path(sys.argv[1]), chosen), nprocs=2)
