"""Ranks that share rows against one rank; the runs themselves are in sequence_ranks.py.

Sums are of the same numbers in another order: in fp32 they differ by rounding. Adam divides by the
root of a mean of squares, so where gradients are next to nothing weights differ by more than that;
four steps move them by up to 4e-2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
RANKS = {"of2": (2,)}
"""File -> how many of its ranks share a row."""
SHARED = [(file, size) for file, sizes in RANKS.items() for size in sizes]

# A minute: it runs with make test-learn.
pytestmark = [pytest.mark.integration, pytest.mark.learn]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[Any, Any]]:
    """By file: (how many share a row, loss, ZeRO stage, gradient checkpointing) -> what it left."""
    directory = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, str(HERE / "sequence_ranks.py"), str(directory)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return {p.stem: torch.load(p, weights_only=False) for p in directory.glob("*.pt")}


def pairs(
    ran: dict[str, dict[Any, Any]], file: str, size: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(of ranks that share rows, of one rank with the same loss), by ZeRO stage and with gradient
    checkpointing or without."""
    alone = {key[1]: value for key, value in ran["of1"].items() if isinstance(key, tuple)}
    shared = {k[1:]: v for k, v in ran[file].items() if isinstance(k, tuple) and k[0] == size}
    assert len(shared) == 6
    return [(found, alone[kind]) for (kind, _, _), found in shared.items()]


@pytest.mark.parametrize(("file", "size"), SHARED)
def test_losses_norms_and_metrics_are_those_of_one_rank(
    ran: dict[str, dict[Any, Any]], file: str, size: int
) -> None:
    for got, want in pairs(ran, file, size):
        assert got["tokens"] == want["tokens"]
        for found, expected in zip(got["metrics"], want["metrics"], strict=True):
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("file", "size"), SHARED)
def test_weights_after_four_steps_are_those_of_one_rank(
    ran: dict[str, dict[Any, Any]], file: str, size: int
) -> None:
    for got, want in pairs(ran, file, size):
        assert got["weights"].keys() == want["weights"].keys()
        for name, weight in want["weights"].items():
            torch.testing.assert_close(got["weights"][name], weight, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(("file", "size"), SHARED)
def test_scores_are_those_of_one_rank(ran: dict[str, dict[Any, Any]], file: str, size: int) -> None:
    for got, want in pairs(ran, file, size):
        torch.testing.assert_close(got["before"], want["before"], atol=2e-5, rtol=0)
        torch.testing.assert_close(got["after"], want["after"], atol=2e-4, rtol=1e-4)
        assert (want["after"] - want["before"]).abs().max() > 0.01


@pytest.mark.parametrize("file", RANKS)
def test_all_ranks_hold_the_same_weights_and_report_the_same(
    ran: dict[str, dict[Any, Any]], file: str
) -> None:
    assert ran[file]["alike"]


@pytest.mark.parametrize("file", RANKS)
def test_a_model_whose_rows_cannot_be_shared_is_refused(
    ran: dict[str, dict[Any, Any]], file: str
) -> None:
    uneven, padded = ran[file]["refused"]
    assert "ds.sequence_parallel_size is 3 and the model has 4 attention heads" in uneven
    assert "does not read rows end to end" in padded
