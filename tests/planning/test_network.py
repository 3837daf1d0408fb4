"""Collectives: bytes over the slower link, and what each call waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planned_jobs import machine

from rto.planning.network import BUCKET, all_gather, all_reduce
from rto.planning.rates import Rates

ONLY_BYTES = replace(Rates(), link=1.0, collective=0.0, hop_inside=0.0, hop_outside=0.0)
GB = 10**9


def test_one_rank_has_nobody_to_wait_for() -> None:
    assert all_gather(machine(), 1, GB, Rates()) == all_reduce(machine(), 1, GB, Rates()) == 0


def test_inside_a_node_the_bytes_go_over_nvlink() -> None:
    # 7/8 of 16 GB at 300 GB/s; a sum is a scatter and a gather.
    gathered = all_gather(machine(), 8, 16 * GB, ONLY_BYTES)
    assert gathered == pytest.approx(14 / 300)
    assert all_reduce(machine(), 8, 16 * GB, ONLY_BYTES) == pytest.approx(2 * gathered)


def test_across_nodes_all_adapters_of_a_node_carry_them() -> None:
    # Eight adapters of 25 GB/s are less than NVLink, eight of 50 GB/s are not less than 450.
    sixteen = all_gather(machine(nodes=2), 16, 16 * GB, ONLY_BYTES)
    assert sixteen == pytest.approx(15 / 200)
    two = all_gather(machine(gpus=1, nodes=2), 2, 16 * GB, ONLY_BYTES)
    assert two == pytest.approx(8 / 25)
    hopper = all_gather(machine(nodes=2, card="H100"), 16, 16 * GB, ONLY_BYTES)
    assert hopper == pytest.approx(15 / 400)


def test_a_card_without_nvlink_gathers_over_pcie() -> None:
    seconds = all_gather(machine(card="L40S", gib=48), 8, 8 * GB, ONLY_BYTES)
    assert seconds == pytest.approx(7 / 31.5)


def test_a_ring_waits_for_every_rank_and_a_tree_for_its_depth() -> None:
    rates = replace(Rates(), collective=1e-5, hop_inside=1e-6, hop_outside=1e-4)
    # 32 ranks on 4 nodes: 28 steps inside and 3 between them, once for each of 10 calls.
    assert all_gather(machine(nodes=4), 32, 0, rates, calls=10) == pytest.approx(
        10 * (1e-5 + 28e-6 + 3e-4)
    )
    # Two calls; up and down a tree of depth 2, with 7 steps inside.
    waits = all_reduce(machine(nodes=4), 32, 2 * BUCKET, rates)
    bytes_alone = all_reduce(machine(nodes=4), 32, 2 * BUCKET, replace(ONLY_BYTES, link=rates.link))
    assert waits - bytes_alone == pytest.approx(2 * (1e-5 + 2 * (2e-4 + 7e-6)))


def test_links_reach_a_share_of_what_they_could() -> None:
    full = all_gather(machine(), 8, 16 * GB, ONLY_BYTES)
    assert all_gather(machine(), 8, 16 * GB, replace(ONLY_BYTES, link=0.5)) == pytest.approx(
        2 * full
    )
