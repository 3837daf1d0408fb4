from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rto.safety import sockets
from rto.safety.sockets import Listening, listening, process_tree

pytestmark = pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="sockets are read from Linux's /proc"
)
CODE = """
import socket, sys
open_ones = [socket.create_server((host, 0), family=family) for host, family in (
    ("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET), ("::1", socket.AF_INET6))]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in (*open_ones, udp)), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, [int(port) for port in process.stdout.readline().split()]
    process.communicate("")


def test_sockets_of_a_process_below_are_found_with_their_addresses(
    child: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, (local, everywhere, six, udp) = child
    assert process.pid in process_tree(os.getpid())
    found = {each.port: each for each in listening(os.getpid())}
    assert {port: found[port].address for port in (local, everywhere, six, udp)} == {
        local: "127.0.0.1", everywhere: "0.0.0.0", six: "::1", udp: "127.0.0.1",
    }  # fmt: skip
    assert [found[port].is_local for port in (local, everywhere, six, udp)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert found[udp].protocol == "udp"
    assert found[local].pid == process.pid
    said = str(found[six])
    assert said.startswith(f"tcp [::1]:{six} of ")
    assert said.endswith(f"({process.pid})")


def test_a_connection_is_not_one_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            ports = [each.port for each in listening(os.getpid())]
            assert port in ports
            assert client.getsockname()[1] not in ports
    assert port not in [each.port for each in listening(os.getpid())]


def test_a_process_that_is_gone_has_none() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert listening(process.pid) == process_tree(process.pid) == []


def test_an_address_of_four_bytes_in_sixteen_is_that_of_four() -> None:
    assert sockets._address("0000000000000000FFFF00000100007F") == "127.0.0.1"
    assert sockets._address("00000000000000000000000000000000") == "::"
    assert not Listening(1, "x", "tcp", "::", 1).is_local
