"""Checkpoints that a disk or a person has spoilt, and those of other sizes."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from damaged import contents, spoils, store, write

from rto.errors import UserError
from rto.sections.parse import parse_run
from rto.training.checkpoint import MANIFEST, CheckpointStore
from rto.training.identity import identity_of

if TYPE_CHECKING:
    from conftest import Tally

pytestmark = pytest.mark.faults


@pytest.mark.goal("R5", "a damaged checkpoint is found, and the one before it is gone on from")
def test_every_damage_is_found(tally: Tally, tmp_path: Path) -> None:
    good = tmp_path / "good"
    whole = contents(write(good, 1))
    newest = write(good, 2)
    names = sorted(contents(newest))
    for name, spoil in spoils(random.Random(7), names):
        root = tmp_path / "spoilt"
        shutil.copytree(good, root, symlinks=True)
        broken = root / newest.name
        spoil(broken)
        found = store(root).latest()
        assert found is not None
        # Of a manifest some bytes mean nothing, as the last line break.
        unharmed = {k: v for k, v in contents(newest).items() if k != MANIFEST}
        same = found.step == 2 and unharmed.items() <= contents(broken).items()
        fell_back = (
            found.step == 1
            and contents(found.path) == whole
            and len(found.warnings) == 1
            and str(broken) in found.warnings[0]
            and "\n" not in found.warnings[0]
        )
        assert tally.count(same or fell_back), name
        shutil.rmtree(root)
    assert tally.tried >= 200


@pytest.mark.goal("R5", "a damaged checkpoint is found, and the one before it is gone on from")
def test_where_all_are_damaged_no_run_starts_over(tally: Tally, tmp_path: Path) -> None:
    for number in range(8):
        root = tmp_path / str(number)
        for step in (1, 2):
            path = write(root, step) / random.Random(number).choice([MANIFEST, "state.json"])
            path.write_bytes(path.read_bytes()[: 5 * number])
        with pytest.raises(UserError) as said:
            store(root).latest()
        assert tally.count(re.search("no intact checkpoint is left", str(said.value)) is not None)


def sized(root: Path, stage: int, ranks: int) -> CheckpointStore:
    flags = ("--ds.zero_stage", str(stage), "--actor.num_gpus_per_node", str(ranks))
    config = parse_run("train", ["--actor.model_name_or_path", "org/model", *flags]).config
    return CheckpointStore(root, identity=identity_of(config, "ppo"), max_num=1)


@pytest.mark.goal("R4", "another ZeRO stage or number of ranks: goes on where equal, else refused")
def test_each_size_goes_on_or_is_refused_by_name(tally: Tally, tmp_path: Path) -> None:
    """That those which go on are exact: tests/training/test_deepspeed_ranks.py."""
    sizes = [(stage, ranks) for stage in range(4) for ranks in (1, 2, 4)]
    for saved in sizes:
        root = tmp_path / f"{saved[0]}-{saved[1]}"
        store = sized(root, *saved)
        store.begin(0)
        store.commit(0, {})
        for wanted in sizes:
            try:
                found = sized(root, *wanted).latest()
            except UserError as error:
                said = str(error)
                names = ("ds.zero_stage", "actor.num_gpus_per_node")
                held = all(
                    (f"{name} {before}, this run {now}" in said) == (before != now)
                    for name, before, now in zip(names, saved, wanted, strict=True)
                )
                held = held and "\n" not in said and "--ckpt.allow" not in said
            else:
                held = saved == wanted and found is not None
            assert tally.count(held), (saved, wanted)
