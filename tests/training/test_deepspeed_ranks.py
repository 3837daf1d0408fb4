"""DeepSpeed ranks against plain torch: the two-rank run itself is in ranks.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rto.sections.deepspeed_file import NO_PART, OWN, PASSED_ON

HERE = Path(__file__).parent
STAGES = (0, 1, 2, 3)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, str(HERE / "ranks.py"), str(directory)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    files = {path.stem: path for path in directory.glob("*.pt")}
    return {name: torch.load(path, weights_only=False) for name, path in files.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_equals_one_process_of_plain_torch(ran: dict[str, Any], stage: int) -> None:
    got, want = ran["rank0"]["train"][stage], ran["reference"]
    for name in ("losses", "norms", "rates"):
        assert got[name] == pytest.approx(want[name], rel=1e-5)
    assert want["losses"][2] < want["losses"][0]
    assert list(got["weights"]) == list(want["weights"])
    for name, weight in want["weights"].items():
        torch.testing.assert_close(got["weights"][name], weight, atol=2e-6, rtol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_hold_the_same_weights(ran: dict[str, Any], stage: int) -> None:
    first, second = (ran[rank]["train"][stage] for rank in ("rank0", "rank1"))
    assert first["losses"] == second["losses"]
    assert all(torch.equal(w, second["weights"][n]) for n, w in first["weights"].items())


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_engine_goes_on_bit_for_bit(ran: dict[str, Any], stage: int) -> None:
    got = ran["rank0"]["train"][stage]
    assert all(torch.equal(w, got["resumed"][n]) for n, w in got["weights"].items())


@pytest.mark.parametrize("stage", STAGES)
def test_so_does_one_whose_state_was_written_after_another_update(
    ran: dict[str, Any], stage: int
) -> None:
    got = ran["rank0"]["train"][stage]
    assert all(torch.equal(w, got["behind"][n]) for n, w in got["weights"].items())


@pytest.mark.parametrize("stage", STAGES)
def test_score_of_unequal_shares_equals_one_forward(ran: dict[str, Any], stage: int) -> None:
    got = torch.cat([ran[rank]["train"][stage]["scores"] for rank in ("rank0", "rank1")])
    torch.testing.assert_close(got, ran["reference"]["scores"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(
    ran: dict[str, Any], stage: int, dtype: str
) -> None:
    for rank in ("rank0", "rank1"):
        got = ran[rank]["diverge"][stage, dtype]
        for after, before in (("after", "before"), ("recovered", "spared"), ("end", "recovered")):
            assert all(torch.equal(w, got[after][n]) for n, w in got[before].items()), after
        assert not all(torch.equal(w, got["recovered"][n]) for n, w in got["after"].items())
        gradient, loss = (stats.skipped for stats in got["left_out"])
        assert gradient[0].problem.startswith("gradient norm is")
        assert loss[0].problem == "loss is nan"
        assert (len(gradient), len(loss)) == (1, 1)
        assert bool(loss[0].rows) == (rank == "rank1"), "the rank whose rows they are names them"
        assert gradient[0].rows, "each rank's rows of the step"
        assert [stats.metrics["policy/skipped_steps"] for stats in got["left_out"]] == [1, 1]
        assert "policy/grad_norm" not in got["left_out"][0].metrics
        assert got["diverged"] == [False, False, True]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    ran: dict[str, Any], stage: int
) -> None:
    """Under ZeRO-3 the value is on one rank alone, and both say so."""
    for rank in ("rank0", "rank1"):
        said = ran[rank]["unfit"][stage]
        assert said["save"].startswith("TrainingDiverged: before a checkpoint was written: ")
        assert "other weights" not in said["save"]
        assert not said["written"]
        assert "model.norm.weight" in said["save"]
        if stage < 3:  # There the state holds the optimizer's copy of the weights, which is whole.
            assert said["load"].startswith("UserError: ")
            assert "model.norm.weight" in said["load"]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_code_in_a_state_file_is_refused_and_not_run(ran: dict[str, Any], stage: int) -> None:
    for rank in ("rank0", "rank1"):
        said = ran[rank]["unfit"][stage]
        assert said["hostile"].startswith("UserError: ")
        assert "nothing of it was run" in said["hostile"]
        assert not said["ran"]


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_follows_fp32(ran: dict[str, Any], stage: int) -> None:
    got = ran["rank0"]["half"][stage]["losses"]
    assert got == pytest.approx(ran["reference"]["losses"], abs=0.05)


@pytest.mark.parametrize("stage", [2, 3])
def test_adapters_come_merged_under_the_plain_names(ran: dict[str, Any], stage: int) -> None:
    got = ran["rank0"]["lora"][stage]
    assert got["names"] == list(ran["reference"]["weights"])
    assert got["unexpected"] == []
    assert got["moved"]
    torch.testing.assert_close(got["merged"], got["adapted"], atol=1e-5, rtol=0)


def test_moving_average_is_kept_on_the_first_rank_and_saved(ran: dict[str, Any]) -> None:
    got = ran["rank0"]["ema"]
    for name, start in got["start"].items():
        want = 0.75 * start + 0.25 * got["end"][name]
        torch.testing.assert_close(got["average"][name], want, atol=1e-7, rtol=1e-6)
        assert torch.equal(got["loaded"][name], got["average"][name])
    assert ran["rank1"]["ema"]["average"] == {}


def test_a_scalar_head_trains_and_scores(ran: dict[str, Any]) -> None:
    got = ran["rank0"]["reward_model"]
    torch.testing.assert_close(got["before"], got["plain"], atol=1e-5, rtol=0)
    assert got["after"].mean() > got["before"].mean()
    assert got["metrics"] == [
        "reward_model/grad_norm", "reward_model/lr", "reward_model/skipped_steps",
    ]  # fmt: skip


def test_settings_of_a_file_act_in_the_engine(ran: dict[str, Any]) -> None:
    """With a bucket of 1,234 numbers gradients are reduced in several parts, to the same sums."""
    got = ran["rank0"]["with_a_file"]
    assert (got["stage 2"], got["stage 3"], got["prefetch"]) == (1234, 1234, 567)
    assert got["losses"] == pytest.approx(ran["reference"]["losses"], rel=1e-5)
    assert got["refused"].startswith("ds.config: DeepSpeed refuses it: ")
    assert "reduce_bucket_sise" in got["refused"]


def test_every_top_level_setting_of_the_installed_deepspeed_is_known(ran: dict[str, Any]) -> None:
    """``sequence_parallel_size`` is read only where something is there, or by ``initialize``."""
    asked = ran["rank0"]["with_a_file"]["asked"]
    assert asked | {"sequence_parallel_size"} == OWN | PASSED_ON | NO_PART.keys()
