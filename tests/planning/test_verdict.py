"""Fits or not, by how much, and the first remedy that is enough."""

from __future__ import annotations

from dataclasses import replace

import pytest
from llama_shapes import GIB, zero
from planned_runs import build, rto_8b

from rto.planning.machine import Capacity, planned_capacity
from rto.planning.verdict import judge
from rto.sections.runtime import VLLM, Planned
from rto.sections.training import Actor, Frozen, Train

A100S = planned_capacity(Planned("8xA100-80"))


def engines(share: float, count: int = 8) -> VLLM:
    return VLLM(engine="vllm", num_engines=count, gpu_memory_utilization=share)


def test_the_run_of_the_paper_fits_eight_a100() -> None:
    verdict = judge(rto_8b(), build, A100S)
    assert verdict.fits
    assert verdict.fullest.phase == "push"
    assert verdict.free is not None
    assert verdict.free == pytest.approx(A100S.gpu - verdict.fullest.total)  # type: ignore[operator]
    assert verdict.free / GIB == pytest.approx(12, abs=1)
    assert verdict.cache_tokens == pytest.approx(123_000, rel=0.01)
    assert verdict.told == (
        f"fits 8xA100-80: {verdict.free / GIB:.1f} GiB are left of the fullest GPU, in push"
    )


def test_little_room_is_said() -> None:
    verdict = judge(rto_8b(vllm=engines(0.5)), build, A100S)
    assert verdict.told.startswith("fits 8xA100-80: narrowly, 3.9 GiB are left")


def test_a_share_that_is_too_large_is_lowered_to_the_first_that_fits() -> None:
    verdict = judge(rto_8b(vllm=engines(0.6)), build, A100S)
    assert not verdict.fits
    assert {each.phase for each in verdict.shortages} == {"sampling", "push", "checkpoint"}
    assert "push takes 83.1 of the 79.1 GiB of a GPU, 4.0 too much (engine 48.1, policy" in (
        verdict.told
    )
    assert verdict.told.endswith("It fits with --vllm.gpu_memory_utilization 0.5")


def test_a_share_that_holds_no_row_is_raised() -> None:
    """The weights alone are 0.19 of a card."""
    verdict = judge(rto_8b(vllm=engines(0.2)), build, A100S)
    assert [each.place for each in verdict.shortages] == ["GPU's share for an engine"]
    assert verdict.told.endswith("It fits with --vllm.gpu_memory_utilization 0.3")


def test_checkpointing_is_the_first_thing_that_is_tried() -> None:
    actor = Actor(num_gpus_per_node=8)
    verdict = judge(rto_8b(actor=actor), build, A100S)
    assert "update takes" in verdict.told
    assert verdict.told.endswith("It fits with --actor.gradient_checkpointing_enable true")


def test_several_settings_where_one_is_not_enough_and_none_too_many() -> None:
    config = rto_8b(
        actor=Actor(num_gpus_per_node=8), vllm=engines(0.6), ref=Frozen(num_gpus_per_node=8)
    )
    verdict = judge(config, build, A100S)
    flags = verdict.remedy.removeprefix("It fits with ").split(" and ")
    assert len(flags) > 1
    assert "--actor.gradient_checkpointing_enable true" in flags
    assert len({flag.split()[0] for flag in flags}) == len(flags), "each setting once"


def test_what_the_host_cannot_hold() -> None:
    small = planned_capacity(Planned("8xA100-80", host_gib=500))
    verdict = judge(rto_8b(), build, small)
    assert "start takes" in verdict.told
    assert "GiB of a node" in verdict.told
    assert "--ref.num_gpus_per_node 4" in verdict.told


def test_the_fewest_gpus_where_no_setting_is_enough() -> None:
    """Whole 8B weights on one card: gradients and optimizer alone are 16 bytes a parameter."""
    one = planned_capacity(Planned("1xA100-40"))
    config = rto_8b(1, vllm=engines(0.4, 1), ds=replace(zero(2)))
    verdict = judge(config, build, one)
    assert verdict.remedy.startswith("No setting makes it fit; the fewest GPUs that would are ")
    count = int(verdict.remedy.split(" are ")[1].split()[0])
    assert count in (2, 4, 8)


def test_a_machine_that_is_not_known_gets_figures_and_no_verdict() -> None:
    unknown = Capacity("the cluster", None, None, per_node=8)
    verdict = judge(rto_8b(), build, unknown)
    assert verdict.fits
    assert verdict.free is None
    assert "no verdict" in verdict.told
    assert verdict.fullest.total > 30 * GIB


def test_a_machine_without_gpus() -> None:
    config = rto_8b(1, train=Train(batch_size=128, device="cpu"), ds=zero(0, "fp32"))
    small = Capacity("this machine", 64 * GIB, 64 * GIB, per_node=1)
    verdict = judge(config, build, small)
    assert "GiB of a machine" in verdict.told
    assert judge(config, build, replace(small, gpu=2000 * GIB, host=2000 * GIB)).fits
