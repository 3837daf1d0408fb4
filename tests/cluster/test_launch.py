"""How a process gets to Ray: which cluster, with what environment, in which folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rto.cluster import launch, watcher
from rto.errors import UserError
from rto.sections.runtime import Cluster


@pytest.mark.parametrize(
    ("address", "job", "ray_address", "expected"),
    [
        (None, False, None, None),
        (None, False, "ray://other", None),
        (None, True, None, "auto"),
        (None, True, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", True, "10.0.0.1:6379", "10.0.0.2:6379"),
        ("10.0.0.2:6379", False, None, "10.0.0.2:6379"),
    ],
)
def test_a_run_joins_the_cluster_that_is_named_or_its_jobs_own(
    address: str | None,
    job: bool,
    ray_address: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (
        ("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}" if job else None),
        ("RAY_ADDRESS", ray_address),
    ):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert launch.cluster_address(Cluster(address=address)) == expected


def test_a_dead_address_is_told_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError) as caught:
        launch._join(f"127.0.0.1:{port}")
    said = str(caught.value)
    assert said.startswith(f"ray.address 127.0.0.1:{port}: no Ray cluster answers")
    assert said.endswith("start it, or leave it out")


def test_a_process_without_ray_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert not launch.is_up()
    assert "ray" not in sys.modules, "asking imports nothing"


OURS = ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "GOMP_SPINCOUNT")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a shell; what a test writes there goes with it."""
    from ray._private import ray_constants

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    for name in (*OURS, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "MALLOC_TRIM_THRESHOLD_"):
        os.environ.pop(name, None)
    return monkeypatch


@pytest.mark.usefixtures("bare")
def test_sockets_of_a_single_machine_stay_on_loopback() -> None:
    from ray._private import ray_constants

    launch._stay_local()
    assert os.environ["VLLM_HOST_IP"] == "127.0.0.1"
    for library in ("GLOO", "NCCL"):
        assert os.environ[f"{library}_SOCKET_IFNAME"] in ("lo", "lo0")
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert ray_constants.ENABLE_RAY_CLUSTER is False


def test_a_cluster_that_is_joined_keeps_its_interfaces(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its ranks may be on several machines."""
    bare.setattr("ray.is_initialized", lambda: True)
    for address, is_local in (("10.0.0.1:6379", False), (None, True)):
        launch.start(Cluster(address=address), device="cuda", num_actors=1, log_dir=tmp_path)
        assert [name in os.environ for name in OURS] == [is_local] * len(OURS)


@pytest.mark.usefixtures("bare")
def test_what_the_user_has_set_stays() -> None:
    given = {name: f"mine {name}" for name in (*OURS, "MALLOC_TRIM_THRESHOLD_")}
    os.environ.update(given)
    launch._stay_local()
    launch._keep_freed_memory()
    assert {name: os.environ[name] for name in given} == given
    assert os.environ["MALLOC_MMAP_THRESHOLD_"] == str(2**40)


@pytest.mark.parametrize("before", [None, "", "mine"])
def test_what_ray_starts_imports_nothing_from_where_it_works(
    before: str | None, bare: pytest.MonkeyPatch
) -> None:
    os.environ.pop(launch.SAFE_PATH, None)
    if before is not None:
        os.environ[launch.SAFE_PATH] = before
    with launch._safe_path():
        code = "import sys; print(sys.flags.safe_path, '' in sys.path)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "True False\n"
    assert os.environ.get(launch.SAFE_PATH) == before


def test_a_cluster_without_tokens_is_left_again_unless_it_is_on_loopback(
    bare: pytest.MonkeyPatch,
) -> None:
    left = []
    bare.setattr("ray.init", lambda **options: None)
    bare.setattr("ray.shutdown", lambda: left.append(True))
    head = SimpleNamespace(gcs_address="127.0.0.1:6379")
    bare.setattr("ray.get_runtime_context", lambda: head)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    launch._join("auto")
    head.gcs_address = "10.0.0.1:6379"
    with pytest.raises(UserError, match=r"10\.0\.0\.1:6379 is not on loopback"):
        launch._join("auto")
    assert left == [True]
    os.environ["RAY_AUTH_MODE"] = "token"
    launch._join("auto")


class Server:
    def __init__(self, code: int | None) -> None:
        self.process = self
        self.code = code

    def poll(self) -> int | None:
        return self.code


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("gcs_server", None, None),
        ("gcs_server", -9, "Ray's head (gcs_server) was killed by signal 9"),
        ("raylet", 1, "Ray's node manager (raylet) ended with code 1"),
        ("log_monitor", -9, None),
    ],
)
def test_a_server_that_has_died_is_named(
    kind: str, code: int | None, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Node:
        all_processes = {"reaper": [], kind: [Server(code)]}

    monkeypatch.setattr("ray._private.worker._global_node", Node())
    found = launch.dead_server()
    assert found == (said and f"{said}, and this run with it")


def test_no_server_is_this_processs_own_where_it_joined_another_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray._private.worker._global_node", None)
    assert launch.dead_server() is None


def test_rays_processes_are_marked_while_they_start(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marks: list[str | None] = []
    bare.setattr(launch, "session_folder", lambda: tmp_path)
    bare.setattr(launch, "close_token", str)
    bare.setattr("ray.init", lambda **options: marks.append(os.environ.get(watcher.MARK)))
    bare.setattr("ray.shutdown", lambda: None)
    bare.setattr("ray.util.get_node_ip_address", lambda: launch.LOOPBACK)
    for _ in range(2):
        launch._start_local(Cluster(), 1)
        launch.stop()
    assert None not in marks
    assert len(set(marks)) == 2
    assert launch._watched == []
    assert watcher.MARK not in os.environ
