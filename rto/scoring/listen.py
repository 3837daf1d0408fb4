"""Host, port and token of a reward server. Imports nothing heavy, so errors show at once."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field

from rto.errors import UserError, told

BACKLOG = 2048
PORTS = range(1, 65536)


@dataclass(frozen=True)
class Listener:
    """A bound socket, and the bearer token that requests must have, if any."""

    socket: socket.socket
    token: str | None = field(repr=False)
    about: str
    """Host, port and token, as the server announces itself."""


def open_listener(host: str, port: int, *, token_env: str) -> Listener:
    """
    Raises:
        UserError: no such host, a port that is taken, or a host that other machines reach
            while the environment variable ``token_env`` holds no token.
    """
    token = os.environ.get(token_env) or None
    if token is None and not is_loopback(host):
        raise UserError(
            f"host {host!a} can be reached by other machines and {token_env} is not set: set it to "
            "a secret, or serve on 127.0.0.1"
        )
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bound = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError, ValueError) as error:
        raise UserError(
            f"serve-reward: cannot listen on {host!a} port {port} ({told(error)}): give another "
            "--host or --port"
        ) from error
    guard = "bearer token required" if token else f"no bearer token ({token_env} is not set)"
    return Listener(bound, token, f"{host}:{port}, {guard}")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
