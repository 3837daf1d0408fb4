"""A run that is resumed when it has nothing left to do leaves its export behind all the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from local_group import NotingRank, trainers

from rto.methods.base import PlainMethod
from rto.protocols import Card
from rto.runs.best import Best
from rto.runs.checkpointing import RunCheckpointer
from rto.training.checkpoint import CheckpointStore
from rto.training.identity import Identity
from rto.types import ScoredBatch, TrainBatch


@dataclass(frozen=True)
class Plain(PlainMethod):
    card: Card = Card("m", "M", "none", "rewards", ("offline",))

    def targets(self, batch: ScoredBatch) -> tuple[TrainBatch, dict[str, float]]:
        raise NotImplementedError


def checkpointer(
    root: Path, rank: NotingRank, *, steps: int, best: Best | None = None
) -> RunCheckpointer:
    store = CheckpointStore(root / "checkpoints", identity=Identity("m"), max_num=3)
    groups = {"policy": trainers("policy", rank)}
    return RunCheckpointer(
        store, groups, root, steps, save_steps=2, built=Plain(), best=best or Best()
    )


@pytest.mark.parametrize(
    ("steps", "best", "written"),
    [
        (4, Best(), True),
        (6, Best(), False),
        (9, Best("eval/x", patience=2), True),
    ],
    ids=["at its last step", "with steps to go", "out of patience"],
)
def test_last_is_written_again(tmp_path: Path, steps: int, best: Best, written: bool) -> None:
    first = checkpointer(tmp_path, NotingRank(), steps=steps, best=best)
    for step in range(4):
        first.after(step, Plain(), {"eval/x": 1.0 if step < 2 else 0.5})
        if first.stopped:
            break
    found = first.store.latest()
    assert found is not None
    rank = NotingRank()
    checkpointer(tmp_path, rank, steps=steps, best=best).resume(Plain(), found)
    export = [("export", str(tmp_path / "last"))] if written else []
    assert rank.calls == [("load", str(found.path / "policy"), "state"), *export]
