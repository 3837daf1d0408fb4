from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_server import Jobs, job_server


@pytest.fixture
def server() -> Iterator[Jobs]:
    with job_server() as jobs:
        yield jobs


@pytest.fixture(autouse=True)
def own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client prefers these to the address that it is given."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
