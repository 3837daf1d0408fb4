"""One Ray, and one set of processes, for all modules that train."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from rto.cluster import launch
from rto.cluster.session import warm_actors
from rto.sections.runtime import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray in which a run takes over the processes of those before it."""
    before = signal.getsignal(signal.SIGTERM)
    settings = Cluster(num_cpus=2, object_store_gib=0.3)
    assert launch.start(settings, num_actors=6, log_dir=tmp_path_factory.mktemp("logs"))
    with warm_actors():
        yield
    launch.stop()
    signal.signal(signal.SIGTERM, before)
