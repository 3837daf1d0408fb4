from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from rto.errors import UserError
from rto.jobs.cluster_size import ClusterSize, cluster_size, plan_of
from rto.jobs.submission import JobRun, check_run

ROOT = Path(__file__).resolve().parents[2]
RTO = "rto train --algo rto --config examples/configs/rto-llama3-8b-8xa100.yaml"
PAIRS = "--actor.model_name_or_path m --data.dataset d --train.batch_size 48"


def run(line: str, *flags: str) -> JobRun:
    found = check_run(shlex.join([*shlex.split(line), *flags]), ROOT)
    assert found is not None
    return found


def test_a_colocated_run_gets_the_gpus_and_cpus_of_its_bundles() -> None:
    plan = plan_of(run(RTO))
    assert set(plan.groups) == {"policy", "critic", "scorer", "engine"}
    assert (plan.total("GPU"), plan.total("CPU")) == (8, 32)
    assert cluster_size(run(RTO), driver_cpus=1) == ClusterSize(1, 8, 33)
    assert cluster_size(run(RTO), driver_cpus=0.5) == ClusterSize(1, 8, 33)
    assert cluster_size(run(RTO), driver_cpus=0) == ClusterSize(1, 8, 32)


def test_the_nodes_are_those_of_the_settings() -> None:
    two = ["--actor.num_nodes", "2", "--critic.num_nodes", "2", "--ref.num_nodes", "2"]
    wide = run(RTO, *two, "--vllm.num_engines", "16")
    assert cluster_size(wide, driver_cpus=0) == ClusterSize(2, 8, 32)
    assert cluster_size(wide, driver_cpus=0, nodes=4) == ClusterSize(4, 4, 16)
    assert cluster_size(wide, driver_cpus=0, gpus_per_node=4) == ClusterSize(4, 4, 16)
    assert cluster_size(wide, driver_cpus=0, cpus_per_node=96) == ClusterSize(2, 8, 96)


def test_groups_with_gpus_of_their_own_fill_nodes_of_eight() -> None:
    apart = run(RTO, "--train.colocate_all", "false", "--vllm.tensor_parallel_size", "2")
    assert plan_of(apart).total("GPU") == 8 + 8 + 8 + 16
    assert cluster_size(apart, driver_cpus=0).nodes == 5
    assert cluster_size(apart, driver_cpus=0).gpus == 8


@pytest.mark.parametrize(
    ("line", "groups"),
    [
        (f"rto sft {PAIRS}", {"policy"}),
        (f"rto reward {PAIRS}", {"policy"}),
        (f"rto dpo {PAIRS}", {"policy"}),
        (f"rto dpo {PAIRS} --ref.model_name_or_path other", {"policy", "scorer"}),
        ("rto fit --algo dro --actor.model_name_or_path m --data.feedback f", {"policy", "critic"}),
    ],
)
def test_an_offline_run_gets_the_groups_that_its_method_reads(line: str, groups: set[str]) -> None:
    assert set(plan_of(run(line)).groups) == groups


def test_a_run_on_cpus_gets_one_for_each_actor() -> None:
    quick = "rto train --algo rto --config examples/configs/quickstart-rto.yaml"
    assert plan_of(run(quick)).num_actors == 6
    assert cluster_size(run(quick), driver_cpus=0) == ClusterSize(1, 0, 6)
    assert cluster_size(run(quick), driver_cpus=1, nodes=2) == ClusterSize(2, 0, 4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"nodes": 2, "gpus_per_node": 3}, r"6 GPUs, the run asks for 8: use --nodes 3"),
        ({"nodes": 2, "gpus_per_node": 8}, r"16 GPUs, the run asks for 8: use --nodes 1"),
        ({"cpus_per_node": 32}, "--cpus_per_node is 32, the run reserves 33"),
    ],
)
def test_a_cluster_that_does_not_fit_is_refused(asked: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        cluster_size(run(RTO), driver_cpus=1, **asked)


def test_an_engine_stays_on_one_node() -> None:
    flags = ["--train.colocate_all", "false", "--vllm.tensor_parallel_size", "4"]
    apart = run(RTO, *flags, "--vllm.num_engines", "2")
    with pytest.raises(UserError, match="one of which asks for 4 GPUs of one node"):
        cluster_size(apart, driver_cpus=0, gpus_per_node=2)
