"""Start or join Ray, with the defaults that keep a single machine closed and quiet."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from types import FrameType

from rto.sections_runtime import Cluster

GIB = 1024**3


def start(settings: Cluster, *, num_actors: int, log_dir: Path) -> bool:
    """Connect this process to Ray: a cluster of its own on loopback, or the one at an address.

    Inside a Ray Job the job's own cluster is joined. A local cluster opens no port to the network
    and has no dashboard. Returns False when this process was already connected.
    """
    address = settings.address or _job_address()
    if address is None:
        # Read when ray is imported: every socket of a single-machine cluster stays on loopback.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return False
    common = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address is not None:
        ray.init(address=address, **common)
        signal.signal(signal.SIGTERM, _terminate)
        return True
    memory = settings.object_store_gib
    ray.init(
        address="local",
        num_cpus=max(settings.num_cpus or os.cpu_count() or 1, num_actors),
        object_store_memory=int(memory * GIB) if memory else None,
        include_dashboard=False,
        _temp_dir=_session_dir(),
        **common,
    )
    # Ray installs handlers of its own in ray.init.
    signal.signal(signal.SIGTERM, _terminate)
    session = Path(ray.get_runtime_context().worker.node.get_session_dir_path())  # pyright: ignore
    link = log_dir / "ray"
    if not link.is_symlink():
        link.symlink_to(session / "logs")
    return True


def stop() -> None:
    import ray

    ray.shutdown()


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _job_address() -> str | None:
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return os.environ.get("RAY_ADDRESS", "auto") if inside_job else None


def _session_dir() -> str:
    """A folder only this user can enter: Ray makes its own session folders world-writable."""
    folder = Path(tempfile.gettempdir()) / f"rto-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: remove it or set TMPDIR")
    return str(folder)
