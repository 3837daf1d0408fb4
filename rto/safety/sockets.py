"""The sockets that a process and those below it listen on, from Linux's /proc."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rto import processes

PROC = Path("/proc")
LISTEN, UDP_OPEN = "0A", "07"
"""States in /proc/net/tcp, and of a UDP socket that is connected to nothing."""


@dataclass(frozen=True, order=True)
class Listening:
    """A socket that accepts what comes to ``address``."""

    pid: int
    process: str
    protocol: str
    address: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only processes of this machine reach it."""
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol} {host}:{self.port} of {self.process} ({self.pid})"


def listening(root: int) -> list[Listening]:
    """Of process ``root`` and all below it; of those that have ended meanwhile, none."""
    open_sockets = dict(_open_sockets())
    found = {
        Listening(pid, _name(pid), *open_sockets[inode])
        for pid in process_tree(root)
        for inode in _inodes(pid)
        if inode in open_sockets
    }
    return sorted(found)


def process_tree(root: int) -> list[int]:
    """``root`` and its descendants, as far as they are there."""
    parents = {int(path.name): processes.parent(path) for path in PROC.glob("[0-9]*")}
    tree = [root] if root in parents else []
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _name(pid: int) -> str:
    """The program, by what it was started as."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    name = words[0].decode("utf-8", "replace")
    return name if " " in name or name.startswith("ray::") else Path(name).name or "?"


def _inodes(pid: int) -> Iterator[int]:
    try:
        descriptors = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
        except OSError:
            continue
        if match:
            yield int(match[1])


def _open_sockets() -> Iterator[tuple[int, tuple[str, str, int]]]:
    """(inode, (protocol, address, port)) of each socket of this machine that waits."""
    for name, state in (("tcp", LISTEN), ("tcp6", LISTEN), ("udp", UDP_OPEN), ("udp6", UDP_OPEN)):
        table = PROC / "net" / name
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for fields in map(str.split, lines):
            if fields[3] == state:
                host, _, port = fields[1].partition(":")
                yield int(fields[9]), (name.removesuffix("6"), _address(host), int(port, 16))


def _address(digits: str) -> str:
    """The kernel writes 32-bit words in the order of the machine's bytes (little-endian here)."""
    words = bytes.fromhex(digits)
    ordered = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    family = socket.AF_INET if len(ordered) == 4 else socket.AF_INET6
    address = socket.inet_ntop(family, ordered)
    mapped = ipaddress.ip_address(address)
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped is not None:
        return str(mapped.ipv4_mapped)
    return address
