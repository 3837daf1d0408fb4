"""With what no run starts: versions and variables of the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator

from rto.errors import UserError
from rto.safety.finding import Finding
from rto.safety.machine import version

RAY_FLOOR = (2, 59)
"""The first Ray whose local cluster asks for a token unless it is told not to."""
INSECURE = "VLLM_ALLOW_INSECURE_SERIALIZATION"
AUTH_MODE = "RAY_AUTH_MODE"


def refuse_unsafe() -> None:
    """
    Raises:
        UserError: the first of ``environment``.
    """
    for finding in environment():
        raise UserError(str(finding))


def environment() -> Iterator[Finding]:
    """What is wrong with this process's versions and variables."""
    found = version("ray")
    if found is not None and _numbers(found) < RAY_FLOOR:
        floor = ".".join(map(str, RAY_FLOOR))
        yield Finding(
            f"Ray {found} lets everyone who reaches its ports run code", f"install {floor} or newer"
        )
    if INSECURE in os.environ:
        yield Finding(f"{INSECURE} is set", "unset it, nothing here needs it")


def without_token() -> bool:
    """Whether Ray is told to ask nobody for a token."""
    return os.environ.get(AUTH_MODE, "").lower() == "disabled"


def check_authenticated(address: str) -> None:
    """Of a cluster that a run joins, by an address of its head.

    Raises:
        UserError: others than this machine reach it, and it asks nobody for a token.
    """
    if without_token() and not is_loopback(address):
        raise UserError(
            f"{AUTH_MODE} is disabled and the Ray cluster at {address} is not on loopback: whoever "
            f"reaches its ports can run code there: start it with {AUTH_MODE}=token "
            "(`ray get-auth-token --generate` makes one)"
        )


def is_loopback(address: str) -> bool:
    """Of ``HOST``, ``HOST:PORT`` or ``[HOST]:PORT``."""
    host = address.rpartition("://")[2]
    match = re.fullmatch(r"\[(?P<six>[^\]]*)\](:\d+)?|(?P<name>[^:]*)(:\d+)?", host)
    name = host if match is None else match["six"] or match["name"]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
