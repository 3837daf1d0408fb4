"""Start or join Ray, with the defaults that keep a single machine closed and quiet."""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from rto.cluster.leftovers import Watched, remove_old_sessions
from rto.errors import UserError, foreign
from rto.processes import variable
from rto.safety.files import close_token, session_folder
from rto.safety.startup import check_authenticated
from rto.sections.runtime import Cluster
from rto.tracking.signals import end_on_signals

GIB = 1024**3
QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": "WARNING"}
KNOCK_TIMEOUT = 10.0
"""Seconds that a host may take to accept a connection."""
LOOPBACK = "127.0.0.1"
OPENMP_SPINS = "5000"
"""Some 50 microseconds: between two steps of a layer."""
NEVER = str(2**40)
"""More bytes than any tensor has."""
SAFE_PATH = "PYTHONSAFEPATH"
SLOW_START = "timed out during startup"
"""In Ray's message when its own agents took longer than the 15 s that it allows them."""
SERVERS = {
    ray_constants.PROCESS_TYPE_GCS_SERVER: "head (gcs_server)",
    ray_constants.PROCESS_TYPE_RAYLET: "node manager (raylet)",
}
"""Without these of its own a Ray does not live on."""
GONE_SECONDS = "15"
"""How long Ray's processes look for a head that has died before they give up; 60 by default."""
_watched: list[Watched] = []
"""The processes of this process's own Ray, if it has one."""


def start(
    settings: Cluster, *, device: Literal["cpu", "cuda"] = "cpu", num_actors: int, log_dir: Path
) -> bool:
    """Connect this process to Ray: a cluster of its own on loopback, or the one at an address.

    Inside a Ray Job the job's own cluster is joined. A local cluster opens no port to the network
    and has no dashboard. Returns False when this process was already connected.
    """
    address = cluster_address(settings)
    if address is None:
        _stay_local()
        if device == "cpu":
            _keep_freed_memory()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ray.is_initialized():
        return False
    if address is not None:
        _join(address)
    else:
        _start_local(settings, num_actors)
        session = Path(ray.get_runtime_context().worker.node.get_session_dir_path())  # pyright: ignore
        link = log_dir / "ray"
        link.unlink(missing_ok=True)
        link.symlink_to(session / "logs")
    end_on_signals()
    return True


def is_up() -> bool:
    """Whether this process is connected to Ray."""
    return ray.is_initialized()


def joined_gpus(address: str) -> float:
    """GPUs of all nodes of a running cluster.

    Raises:
        UserError: nothing answers at the address.
    """
    return sum(node.get("GPU", 0.0) for node in _joined_nodes(address))


def joined_cpus(address: str) -> float:
    """Cores of the smallest node of a running cluster that has any for actors.

    Raises:
        UserError: nothing answers at the address.
    """
    return min((node["CPU"] for node in _joined_nodes(address) if node.get("CPU")), default=1.0)


@functools.cache
def _joined_nodes(address: str) -> list[Mapping[str, float]]:
    """The resources of each node, by Ray's account; joins for as long as the question takes."""
    joined_before = ray.is_initialized()
    if not joined_before:
        _join(address)
    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        if not joined_before:
            ray.shutdown()


def _join(address: str) -> None:
    with foreign(f"ray.address {address}: no Ray cluster answers", "start it, or leave it out"):
        host, _, port = address.rpartition(":")
        if host and port.isdecimal() and "/" not in host:
            # Ray itself tries a dead address for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_TIMEOUT).close()
        ray.init(address=address, **QUIET)
    head = ray.get_runtime_context().gcs_address
    try:
        check_authenticated(head)
    except UserError:
        ray.shutdown()
        raise


def dead_server() -> str | None:
    """Which server of this process's own Ray has died, and how; None while they live, and where
    this process has joined another's."""
    node = ray._private.worker._global_node  # pyright: ignore
    for name, servers in ({} if node is None else node.all_processes).items():
        for server in servers if name in SERVERS else ():
            code = server.process.poll()
            if code is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                return f"Ray's {SERVERS[name]} {how}, and this run with it"
    return None


def stop() -> None:
    ray.shutdown()
    while _watched:
        _watched.pop().release()


def _stay_local() -> None:
    """What Ray, gloo, NCCL and vLLM read to keep every socket of a single machine on loopback."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Ray's own processes read that one; this process read it when it imported Ray.
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", GONE_SECONDS)
    os.environ.setdefault("VLLM_HOST_IP", LOOPBACK)
    # OpenMP threads spin before they sleep. By default for milliseconds, in which they take the
    # cores from other actors' threads; without it sampling, small steps, loses a quarter.
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
    interface = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        # For how ranks find each other: on one machine tensors take NVLink or shared memory.
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def _keep_freed_memory() -> None:
    """The C library (glibc) would return large tensors to the system and fetch fresh pages for the
    next ones, step after step: some 10 % of an iteration on a CPU."""
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        os.environ.setdefault(name, NEVER)


def _start_local(settings: Cluster, num_actors: int) -> None:
    said = close_token()
    if said:
        print(said, file=sys.stderr)
    memory, folder = settings.object_store_gib, session_folder()
    remove_old_sessions(folder)
    options: dict[str, Any] = {
        "address": "local",
        "num_cpus": max(settings.num_cpus or os.cpu_count() or 1, num_actors),
        "object_store_memory": int(memory * GIB) if memory else None,
        "include_dashboard": False,
        "_temp_dir": str(folder),
        **QUIET,
    }
    _watched.append(Watched())
    with _watched[-1].marking(), _safe_path():
        _init(options)
    found = ray.util.get_node_ip_address()
    if found != LOOPBACK:
        stop()
        raise RuntimeError(f"the local Ray cluster is at {found}, not at {LOOPBACK}")


def _init(options: Mapping[str, Any]) -> None:
    try:
        ray.init(job_config=_own_path(), **options)
    except Exception as error:  # Ray raises a bare Exception here.
        if SLOW_START not in str(error):
            raise
        print("Ray's own processes were slow to start: trying once more", file=sys.stderr)
        ray.shutdown()
        ray.init(job_config=_own_path(), **options)


def cluster_address(settings: Cluster) -> str | None:
    """Of the cluster that a run joins; None where it starts one of its own."""
    if settings.address is not None:
        return settings.address
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return os.environ.get("RAY_ADDRESS", "auto") if inside_job else None


def _own_path() -> JobConfig:
    """Ray puts the folder that this process works in, whatever lies there, before the libraries of
    every actor, unless the job is said to come through a client."""
    return JobConfig(_client_job=True)


def _safe_path() -> AbstractContextManager[None]:
    """Pythons that are started within it, and by those, import nothing from where they work."""
    return variable(SAFE_PATH, "1")
