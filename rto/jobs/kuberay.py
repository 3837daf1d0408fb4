"""A job as a RayJob of KubeRay: a cluster of its own, which is removed when the run has ended.

Fields: KubeRay's reference of the custom resource ``ray.io/v1`` (1.6; token authentication needs
1.5.1). The pods need Ray and `rto` in their image, and a volume that all of them can write to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from rto.jobs.cluster_size import ClusterSize

SHARED = "/shared"
"""Where the volume is mounted, and where the driver runs: relative paths lie on it."""
LONGEST_NAME = 47
"""KubeRay adds to a RayJob's name, and Kubernetes allows 63 characters."""
USER = 1000
"""Of the image: who owns what the pods write."""


@dataclass(frozen=True)
class Pods:
    """What the pods of a RayJob are made of, beside the size of its cluster."""

    image: str
    claim: str
    """A PersistentVolumeClaim that many nodes can write to."""
    secret: str | None = None
    """A Secret whose keys become environment variables: HF_TOKEN, WANDB_API_KEY."""
    memory: str | None = None
    """Of each worker, in Kubernetes' units."""


class _Block(str):
    """A text that YAML shows line by line."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)


def object_name(text: str) -> str:
    """The text as a name that Kubernetes takes: lower case, digits and hyphens."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return name[:LONGEST_NAME].strip("-") or "rto"


def ray_job(
    name: str,
    line: str,
    size: ClusterSize,
    pods: Pods,
    *,
    runtime_env: dict[str, Any],
    driver: Mapping[str, float],
) -> str:
    """The manifest, as YAML for `kubectl apply`."""
    return yaml.dump(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": object_name(name)},
            "spec": {
                "entrypoint": f"cd {SHARED} && {line}",
                "entrypointNumCpus": driver.get("num_cpus", 0),
                "entrypointNumGpus": driver.get("num_gpus", 0),
                **({"runtimeEnvYAML": _Block(yaml.safe_dump(runtime_env))} if runtime_env else {}),
                "shutdownAfterJobFinishes": True,
                "rayClusterSpec": {
                    "rayVersion": version("ray"),
                    "authOptions": {"mode": "token"},
                    "headGroupSpec": _head(pods, driver),
                    "workerGroupSpecs": [_workers(size, pods)],
                },
            },
        },
        Dumper=_Dumper,
        sort_keys=False,
        width=10_000,
    )


def _head(pods: Pods, driver: Mapping[str, float]) -> dict[str, Any]:
    """Ray's own processes and the driver; no actor of the run fits there."""
    cpus = max(1, round(driver.get("num_cpus", 0)))
    ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
    named = [{"name": name, "containerPort": port} for name, port in ports.items()]
    template = _template("ray-head", pods, {"cpu": str(cpus + 1)}, ports=named)
    params = {"dashboard-host": "0.0.0.0", "num-cpus": str(cpus), "num-gpus": "0"}
    return {"rayStartParams": params, "template": template}


def _workers(size: ClusterSize, pods: Pods) -> dict[str, Any]:
    resources = {"cpu": str(size.cpus)}
    if size.gpus:
        resources["nvidia.com/gpu"] = str(size.gpus)
    if pods.memory:
        resources["memory"] = pods.memory
    return {
        "groupName": "gpu" if size.gpus else "cpu",
        "replicas": size.nodes,
        "minReplicas": size.nodes,
        "maxReplicas": size.nodes,
        "rayStartParams": {"num-cpus": str(size.cpus), "num-gpus": str(size.gpus)},
        "template": _template("ray-worker", pods, resources),
    }


def _template(
    name: str, pods: Pods, resources: Mapping[str, str], **more: object
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": pods.image,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "volumeMounts": [
            {"name": "shared", "mountPath": SHARED},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
        **more,
    }
    if pods.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": pods.secret}}]
    return {
        "spec": {
            "securityContext": {"fsGroup": USER},
            "containers": [container],
            "volumes": [
                {"name": "shared", "persistentVolumeClaim": {"claimName": pods.claim}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
            ],
        }
    }
