"""The device of a run is the cluster's, or the one that a dry run plans for."""

from __future__ import annotations

import pytest

from rto.cluster import launch
from rto.cluster.device import check_planned, run_device
from rto.cluster.plan import plan_actors
from rto.errors import UserError
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Cluster, Planned
from rto.sections.training import Actor, Train


@pytest.fixture(autouse=True)
def outside_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


def test_gpus_are_the_clusters_not_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = {"head:1": 8.0, "cpu:1": 0.0}
    monkeypatch.setattr(launch, "joined_gpus", gpus.__getitem__)

    def device(address: str, asked) -> str:
        return run_device(RunConfig(ray=Cluster(address=address), train=Train(device=asked)))

    assert device("head:1", "auto") == device("head:1", "cuda") == "cuda"
    assert device("head:1", "cpu") == device("cpu:1", "auto") == "cpu"
    with pytest.raises(UserError, match="Ray cluster at cpu:1 has no GPU"):
        device("cpu:1", "cuda")


def test_a_job_asks_the_cluster_that_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(launch, "joined_gpus", lambda address: asked.append(address) or 1.0)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert run_device(RunConfig()) == "cuda"
    assert asked == ["10.0.0.1:6379"]


def test_a_plan_for_gpus_needs_none_here() -> None:
    config = RunConfig(plan=Planned(gpus="8xA100-80"), actor=Actor(num_gpus_per_node=8))
    assert run_device(config) == "cuda"
    assert run_device(RunConfig(plan=Planned("8xH100"), train=Train(device="cpu"))) == "cpu"


def test_more_gpus_than_planned_for_are_refused() -> None:
    def plan(gpus: str, ranks: int, colocate: bool) -> None:
        config = RunConfig(
            plan=Planned(gpus),
            actor=Actor(num_gpus_per_node=ranks),
            train=Train(colocate_all=colocate),
            vllm=VLLM(num_engines=ranks),
        )
        found = plan_actors(
            config, device="cuda", num_cpus=8, online=True, critic=False, frozen=False
        )
        check_planned(config, found)

    plan("8xA100-80", 8, colocate=True)
    plan("16xA100-80", 8, colocate=False)
    with pytest.raises(UserError, match="8xA100-80, but the run asks for 16 GPUs"):
        plan("8xA100-80", 8, colocate=False)


@pytest.mark.parametrize("gpus", ["", "A100", "0xA100", "8A100", "8xA100-", "8xA100-0", "-1xA100"])
def test_what_plan_gpus_takes(gpus: str) -> None:
    with pytest.raises(UserError, match="plan.gpus is .*"):
        RunConfig(plan=Planned(gpus=gpus))
    assert Planned(gpus="8xA100").num_gpus == 8


def test_an_address_where_nothing_listens_is_one_line() -> None:
    with pytest.raises(UserError, match="ray.address 127.0.0.1:1: no Ray cluster answers"):
        launch.joined_gpus("127.0.0.1:1")
