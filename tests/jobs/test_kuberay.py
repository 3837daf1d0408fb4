from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rto.jobs.cluster_size import ClusterSize
from rto.jobs.kuberay import Pods, object_name, ray_job

SCHEMA = yaml.safe_load(Path(__file__).with_name("rayjob_schema.yaml").read_text())
PODS = Pods("rto-rlhf:1", "shared-disk", "tokens", "800Gi")
ENV = {"env_vars": {"A": "1"}, "pip": ["x"]}
LINE = "rto train --ckpt.output_dir '/shared/two words'"


def made(
    size: ClusterSize, pods: Pods = PODS, env: dict[str, Any] | None = None, cpus: float = 1
) -> dict[str, Any]:
    driver = {"num_cpus": cpus} if cpus else {}
    text = ray_job("RTO, Llama-3.1 8B", LINE, size, pods, runtime_env=env or {}, driver=driver)
    return yaml.safe_load(text)


def containers(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    return head, spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("size", [ClusterSize(2, 8, 33), ClusterSize(1, 0, 6)])
@pytest.mark.parametrize("pods", [PODS, Pods("i", "c")])
@pytest.mark.parametrize("env", [{}, ENV])
def test_a_manifest_has_the_fields_that_kuberay_knows(
    size: ClusterSize, pods: Pods, env: dict[str, Any]
) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(made(size, pods, env), SCHEMA)


@pytest.mark.parametrize("path", ["spec", "spec.rayClusterSpec", "spec.rayClusterSpec.authOptions"])
def test_the_schema_knows_no_other_field(path: str) -> None:
    manifest = made(ClusterSize(2, 8, 33))
    inner = manifest
    for key in path.split("."):
        inner = inner[key]
    inner["madeUp"] = True
    with pytest.raises(jsonschema.ValidationError, match="madeUp"):
        jsonschema.validate(manifest, SCHEMA)


def test_the_cluster_is_the_plans_and_goes_with_the_job() -> None:
    manifest = made(ClusterSize(2, 8, 33), env=ENV)
    spec, cluster = manifest["spec"], manifest["spec"]["rayClusterSpec"]
    assert manifest["metadata"]["name"] == "rto-llama-3-1-8b"
    assert spec["entrypoint"] == f"cd /shared && {LINE}"
    assert (spec["entrypointNumCpus"], spec["entrypointNumGpus"]) == (1, 0)
    assert spec["shutdownAfterJobFinishes"] is True
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == ENV
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    replicas = [workers[name] for name in ("replicas", "minReplicas", "maxReplicas")]
    assert replicas == [2, 2, 2]
    assert workers["rayStartParams"] == {"num-cpus": "33", "num-gpus": "8"}
    asked = {"cpu": "33", "nvidia.com/gpu": "8", "memory": "800Gi"}
    assert containers(cluster)[1]["resources"] == {"requests": asked, "limits": asked}


def test_the_head_has_cpus_alone() -> None:
    spec = made(ClusterSize(2, 8, 33), cpus=3)["spec"]["rayClusterSpec"]
    params = spec["headGroupSpec"]["rayStartParams"]
    assert params == {"dashboard-host": "0.0.0.0", "num-cpus": "3", "num-gpus": "0"}
    assert containers(spec)[0]["resources"]["limits"] == {"cpu": "4"}
    none = made(ClusterSize(2, 8, 33), cpus=0)["spec"]
    assert none["entrypointNumCpus"] == 0
    assert none["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "1"


def test_all_pods_share_a_volume_and_have_memory_for_ray() -> None:
    spec = made(ClusterSize(2, 8, 33))["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group, container in zip(groups, containers(spec), strict=True):
        pod = group["template"]["spec"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts == {"shared": "/shared", "shm": "/dev/shm"}
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"] == {"claimName": "shared-disk"}
        assert volumes["shm"]["emptyDir"] == {"medium": "Memory"}
        assert container["image"] == "rto-rlhf:1"
        assert container["envFrom"] == [{"secretRef": {"name": "tokens"}}]


def test_a_cluster_of_cpus_asks_for_no_gpu() -> None:
    spec = made(ClusterSize(1, 0, 6), Pods("i", "c"))["spec"]
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["groupName"] == "cpu"
    worker = containers(spec["rayClusterSpec"])[1]
    assert worker["resources"]["limits"] == {"cpu": "6"}
    assert "envFrom" not in worker
    assert "runtimeEnvYAML" not in spec


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a_B c", "a-b-c"),
        ("-x-", "x"),
        ("x" * 60, "x" * 47),
        ("\u00e4", "rto"),
        ("a" * 46 + ".b", "a" * 46),
    ],
)
def test_names_are_those_that_kubernetes_takes(text: str, name: str) -> None:
    assert object_name(text) == name
