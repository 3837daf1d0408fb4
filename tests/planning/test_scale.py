"""How a run grows with its nodes: what is kept, what is refused, and what is lost."""

from __future__ import annotations

import pytest
from planned_jobs import machine, rto_config, rto_job, rto_setup

from rto.planning.cost import iteration
from rto.planning.job import Workload
from rto.planning.rates import Rates
from rto.planning.scale import Row, Scaling, base_nodes, falls_below, largest_loss, scale, scaled

RATES = Rates()
NODES = (1, 2, 4, 8, 16, 32, 64, 128)


def rows(job: Workload, scaling: Scaling, nodes: tuple[int, ...] = NODES) -> list[Row]:
    return scale(job, RATES, nodes, rto_setup, scaling=scaling)


def test_every_group_grows_with_the_nodes() -> None:
    job = scaled(rto_job(), 4, rto_setup, scaling="strong")
    config = job.config
    assert job.machine.gpus == 32
    assert config.actor.num_ranks == config.critic.num_ranks == config.ref.num_replicas == 32
    assert config.vllm.num_engines == 32
    assert base_nodes(job) == 4
    assert (config.rollout.batch_size, config.train.batch_size) == (1024, 128)


def test_weak_scaling_keeps_the_rows_of_a_rank() -> None:
    config = scaled(rto_job(), 4, rto_setup, scaling="weak").config
    assert (config.rollout.batch_size, config.train.batch_size) == (4096, 512)
    assert config.steps_per_iteration == 8


def test_a_configuration_of_two_nodes_grows_from_two() -> None:
    two = scaled(rto_job(), 2, rto_setup, scaling="strong")
    found = rows(two, "strong", (1, 2, 3, 4))
    assert [row.iteration is None for row in found] == [True, False, True, False]
    assert "no multiple" in found[0].refused
    assert found[1].efficiency == pytest.approx(1)
    assert found[3].iteration == iteration(scaled(rto_job(), 4, rto_setup, scaling="strong"), RATES)


def test_the_batch_ends_strong_scaling() -> None:
    found = rows(rto_job(), "strong")
    assert [row.nodes for row in found if row.iteration is None] == [32, 64, 128]
    assert "train.batch_size 128 does not divide over 256 ranks" in found[5].refused
    assert all(row.iteration is not None for row in rows(rto_job(), "weak"))


def test_groups_of_samples_end_it_sooner() -> None:
    config = rto_config("rto-llama3-8b-8xa100", "--rollout.n_samples_per_prompt", "8",
                        "--rollout.batch_size", "128")  # fmt: skip
    found = rows(rto_job(config), "strong")
    assert [row.nodes for row in found if row.iteration is None] == [4, 8, 16, 32, 64, 128]
    assert "whole groups of 8" in found[2].refused


def test_efficiency_is_of_responses_a_second() -> None:
    first, second = rows(rto_job(), "strong", (1, 2))
    assert first.iteration is not None
    assert second.iteration is not None
    assert first.efficiency == pytest.approx(1)
    assert second.efficiency == pytest.approx(
        first.iteration.seconds / (2 * second.iteration.seconds)
    )
    doubled = rows(rto_job(), "weak", (1, 2))[1]
    assert doubled.iteration is not None
    assert doubled.iteration.responses == 2048
    assert doubled.efficiency == pytest.approx(first.iteration.seconds / doubled.iteration.seconds)


@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_efficiency_falls(scaling: Scaling) -> None:
    values = [row.efficiency for row in rows(rto_job(), scaling) if row.iteration]
    assert values == sorted(values, reverse=True)


def test_what_is_lost_first() -> None:
    """Strong: the weights are read as often for fewer responses. Weak: the driver's rows."""
    strong, weak = rows(rto_job(), "strong")[3], rows(rto_job(), "weak")[-1]
    assert strong.largest_loss is not None
    assert weak.largest_loss is not None
    assert (strong.largest_loss.stage, strong.largest_loss.part) == ("generate", "reading weights")
    assert weak.largest_loss.stage == "driver"
    assert rows(rto_job(), "weak", (1,))[0].largest_loss is None


def test_a_loss_is_what_exceeds_the_perfect_share() -> None:
    first = {("a", "x"): 8.0, ("b", "y"): 1.0}
    now = {("a", "x"): 4.0, ("b", "y"): 0.75, ("b", "new"): 0.125}
    found = largest_loss(first, now, 0.5)
    assert found is not None
    assert (found.stage, found.part, found.seconds) == ("b", "y", 0.25)
    assert largest_loss(first, first, 1.0) is None


def test_where_it_falls_below_a_share() -> None:
    found = rows(rto_job(), "strong")
    half = falls_below(found, 0.5)
    assert half is not None
    assert half.efficiency < 0.5 <= found[found.index(half) - 1].efficiency
    assert falls_below(found, 0.0) is found[5]
    assert falls_below(found[:5], 0.0) is None


def test_sampling_ahead_is_counted_at_every_number_of_nodes() -> None:
    config = rto_config("rto-llama3-8b-8xa100", "--train.colocate_all", "false")
    job = rto_job(config, on=machine(gpus=32))
    plain = scale(job, RATES, (1, 2), rto_setup, scaling="weak")
    ahead = scale(job, RATES, (1, 2), rto_setup, scaling="weak", lag=1)
    for before, after in zip(plain, ahead, strict=True):
        assert before.iteration is not None
        assert after.iteration is not None
        assert after.iteration.seconds < before.iteration.seconds
    assert ahead[0].efficiency == pytest.approx(1)
