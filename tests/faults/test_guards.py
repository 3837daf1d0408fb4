"""Values that are not finite, under every ZeRO stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from conftest import Tally

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.faults


@pytest.mark.timeout(900)
@pytest.mark.goal(
    "R8", "NaN or infinity in a loss, gradient, log-prob or reward: no weight changes, 3 end it"
)
def test_no_weight_is_ever_changed_by_it(tally: Tally, tmp_path: Path) -> None:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "training" / "nonfinite_ranks.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = torch.load(tmp_path / "held.pt", weights_only=True)
    failed = []
    for first, second in zip(*ranks, strict=True):
        kept = {**{f"rank 0 {k}": v for k, v in first[1].items()}, **second[1]}
        if not tally.count(all(kept.values())):
            failed.append((first[0], [name for name, held in kept.items() if not held]))
    assert failed == []
